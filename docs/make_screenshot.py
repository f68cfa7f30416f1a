"""Take docs/images/mlflow-compare.png: ``python docs/make_screenshot.py`` after ``make repro``.

Does what a user does, in headless Chromium: opens MLflow's UI, unfolds the newest pipeline run,
ticks finetune_sgd and finetune_sam, presses Compare, and follows validation_accuracy to the page
with both curves. Needs chromium, chromedriver and `pip install selenium`.
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as conditions
from selenium.webdriver.support.ui import WebDriverWait

STORE = "sqlite:///mlflow.db"
PICTURE = Path("docs/images/mlflow-compare.png")
ROW = "//div[@role='row' and @row-index='{index}']"


def wait_for(address: str) -> None:
    """Return when the server answers."""
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).close()  # noqa: S310
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        else:
            return
    sys.exit("error: MLflow's UI did not start")


def compare(browser: webdriver.Chrome, address: str) -> None:
    """From the list of runs to both curves, by clicking."""
    wait = WebDriverWait(browser, 60)

    def click(xpath: str) -> None:
        found = wait.until(conditions.presence_of_element_located((By.XPATH, xpath)))
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        webdriver.ActionChains(browser).move_to_element(found).click().perform()

    browser.get(f"{address}/#/experiments/1/runs")
    click(f"{ROW.format(index=0)}//button")
    for stage in ("finetune_sgd", "finetune_sam"):
        name = (By.XPATH, f"//a[normalize-space()='{stage}']/ancestor::div[@role='row']")
        row = wait.until(conditions.presence_of_element_located(name))
        click(f"{ROW.format(index=row.get_attribute('row-index'))}//input[@type='checkbox']")
    click("//button[normalize-space()='Compare']")
    click("//a[normalize-space()='validation_accuracy']")
    for stage in ("finetune_sgd", "finetune_sam"):
        legend = (By.XPATH, f"//*[contains(text(), '{stage}') and contains(., '(validation_')]")
        wait.until(conditions.presence_of_element_located(legend))
    click("//h1")  # and the pointer is out of the picture
    time.sleep(2)  # until everything has faded in


def main() -> None:
    """Start the UI, take the picture, stop the UI."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = ["mlflow", "ui", "--backend-store-uri", STORE, "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        "--window-size=1900,860",
    ):
        options.add_argument(argument)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address)
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        browser = webdriver.Chrome(options=options, service=service)
        try:
            compare(browser, address)
            browser.save_screenshot(str(PICTURE))
        finally:
            browser.quit()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
