"""What keeps the project, and is no part of it: releases, and checks of what people see."""
