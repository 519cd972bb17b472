// The page of rkv serve in Chromium. Exits with 77 (skipped) where Chromium or playwright-core is not installed.
//
// usage: page_test.mjs RKV REFERENCE_FOLDER [SCREENSHOT_FOLDER]

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { keptAnswers, makePicture, standInTests, withOrientation } from "./page_stand_in_tests.mjs";
import { startStandIn } from "./support/stand_in_server.mjs";

const [rkv, reference, screenshots] = process.argv.slice(2);

function skip(why) {
  console.log(`skipped: ${why}`);
  process.exit(77);
}

function findChromium() {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    try {
      return execFileSync("which", [name], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    } catch {
      // The next one.
    }
  }
  return skip("Chromium is not installed (scripts/test.sh installs it on Debian)");
}

const modules = process.env.RKV_NODE_MODULES ?? "";

function loadPlaywright() {
  if (!existsSync(path.join(modules, "playwright-core"))) {
    skip("the npm package playwright-core is not installed (scripts/test.sh fetches it)");
  }
  return createRequire(path.join(modules, "x.js"))("playwright-core");
}

function loadAxe() {
  const file = path.join(modules, "axe-core", "axe.min.js");
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}

const executablePath = findChromium();
const { chromium } = loadPlaywright();

// The model of the samples whose answers are known, or the bundled one.
function startServer(flags) {
  const server = spawn(rkv, ["serve", "--port", "0", "-t", "2", ...flags], { stdio: ["ignore", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    let said = "";
    server.stdout.on("data", (data) => {
      said += data;
      const port = said.match(/:(\d+)\n/);
      if (port) resolve({ url: `http://127.0.0.1:${port[1]}/`, stop: () => server.kill() });
    });
    server.on("exit", (code) => reject(new Error(`rkv serve ended with ${code}`)));
  });
}

const tinyVlm = [
  ...["-m", path.join(reference, "tiny-vlm-f16.gguf"), "-mm", path.join(reference, "mmproj-tiny-vlm-f16.gguf")],
  ...["-a", "tiny-vlm", "--policy", "retentive", "--budget", "20%"],
];
const sample = path.join(reference, "samples", "doc-1.png");

// Returns the answer once the page also shows what the cache held after it.
async function ask(page, question) {
  const before = await page.locator("article.assistant").count();
  await page.getByLabel("Question", { exact: true }).fill(question);
  await page.keyboard.press("Enter");
  await page.locator("article.assistant").nth(before).waitFor();
  await page.locator("#stop").waitFor({ state: "hidden" });
  await page.locator('#memory:not([aria-busy="true"])').waitFor({ state: "attached" });
  return (await page.locator("article.assistant").nth(before).locator(".content").innerText()).trim();
}

const tests = {
  async answersAndShowsTheMemory(page) {
    await page.getByText("tiny-vlm · policy retentive · budget 20%").waitFor();
    assert.equal(await page.locator("#samples").isVisible(), false, "samples are for the bundled model");
    await page.locator("#files").setInputFiles(sample);
    await page.locator("#pictures img").waitFor();
    assert.equal(await ask(page, "value of W"), "59");
    const map = page.locator("#maps .map svg");
    await map.waitFor();
    assert.equal(await map.locator("rect").count(), 64);
    assert.match(await page.locator("#held").innerText(), /^Holds [\d.]+ KiB of [\d.]+ KiB \(\d+ %\)$/);
    const first = await page.locator("#figures").innerText();
    assert.equal(await ask(page, "value of Z"), "27");
    assert.notEqual(await page.locator("#figures").innerText(), first);
    assert.match(await page.locator("#figures").innerText(), /[1-9]\d* cached/);
    assert.match(await page.locator("#turn-name").innerText(), /Turn 2 of 2.*value of Z.*27/);

    // Back to the first turn, by keyboard.
    await page.locator("#turn").focus();
    await page.keyboard.press("ArrowLeft");
    assert.match(await page.locator("#turn-name").innerText(), /Turn 1 of 2.*value of W.*59/);
    assert.equal(await page.locator("#figures").innerText(), first);

    // Over the cells by keyboard and by pointer; what was read, of one head.
    await map.focus();
    await page.keyboard.press("ArrowRight");
    assert.match(await page.locator("#cell").innerText(), /^Row 1, column 2 /);
    await page.getByLabel("cells read").check();
    await page.getByLabel("Layer", { exact: true }).selectOption("1");
    await page.getByLabel("KV head").selectOption("0");
    const box = await map.boundingBox();
    await page.mouse.move(box.x + box.width - 3, box.y + box.height - 3);
    assert.match(await page.locator("#cell").innerText(), /^Row 8, column 8 .*The answer read [\d.]+ %/);
    const reads = await map.locator("rect").evaluateAll((cells) => new Set(cells.map((c) => c.getAttribute("fill-opacity"))).size);
    assert.ok(reads > 5, "cells differ in their share of attention");
  },

  async wordsShowWhatTheyWereReadFrom(page) {
    await page.locator("#files").setInputFiles(sample);
    assert.equal(await ask(page, "value of W"), "59");
    assert.equal(await ask(page, "value of Z"), "27");
    const cells = page.locator("#maps .map svg > rect:not(.reactivated)");
    const colours = () => cells.evaluateAll((all) => all.map((cell) => cell.getAttribute("fill") + cell.getAttribute("fill-opacity")).join());
    const told = () => page.locator("#cell").innerText();
    const word = (text) => page.locator("article.assistant .word", { hasText: text });
    const whole = await colours();

    // By pointer: the map is the word's, with what was reactivated for it, and then as before.
    await word("27").hover();
    assert.match(await told(), /^“27” read [\d.]+ % from the picture as a mean over all heads, most of it at row \d, column \d .*Reactivated: the states? of row \d/);
    const read = await colours();
    assert.notEqual(read, whole);
    assert.ok((await page.locator("#maps .reactivated").count()) > 0);
    await page.mouse.move(2, 2);
    assert.match(await told(), /^Point at a cell/);
    assert.equal(await colours(), whole);
    assert.equal(await page.locator("#maps .reactivated").count(), 0);

    // A word of an earlier answer, by keyboard.
    await word("59").focus();
    assert.match(await told(), /^“59” read /);
    const earlier = await colours();
    assert.ok(earlier !== read && earlier !== whole);
    await page.locator("#question").focus();
    assert.equal(await colours(), whole);

    // Kept until it is let go; cells tell what the word read of them.
    await word("27").focus();
    await page.keyboard.press("Enter");
    await page.locator("#question").focus();
    assert.equal(await colours(), read);
    await page.locator("#maps .map svg").hover();
    assert.match(await told(), /“27” read [\d.]+ % from it\.$/);
    await page.keyboard.press("Escape");
    assert.equal(await colours(), whole);

    // Where the chat hides the map, a click shows it.
    await page.setViewportSize({ width: 360, height: 800 });
    await word("27").click();
    assert.match(await told(), /^“27” read /);
    assert.equal(await colours(), read);
    await page.getByRole("button", { name: "Memory" }).click();
    await word("27").click();
    assert.equal(await page.locator("#memory").isVisible(), false);
  },

  async mapsAndWordsAreThereAfterAReload(page) {
    await page.locator("#files").setInputFiles(sample);
    assert.equal(await ask(page, "value of W"), "59");
    await page.locator("#maps .map svg").waitFor();
    const figures = await page.locator("#figures").innerText();
    await keptAnswers(page, 1);
    await page.reload();
    await page.locator("article.assistant .word", { hasText: "59" }).hover();
    assert.match(await page.locator("#cell").innerText(), /^“59” read [\d.]+ % from the picture/);
    assert.equal(await page.locator("#figures").innerText(), figures);
    assert.equal(await ask(page, "value of Z"), "27");
    assert.match(await page.locator("#figures").innerText(), /[1-9]\d* cached/);
  },

  async photosAreTurnedUnderTheirMap(page) {
    const photo = withOrientation(await makePicture(page, 128, 256, "image/jpeg", "halves"), 6);
    await page.locator("#files").setInputFiles({ name: "photo.jpg", mimeType: "image/jpeg", buffer: photo });
    await page.locator("#pictures img").waitFor();
    await ask(page, "value of W");
    await page.getByText("16 × 8 cells").waitFor();
    const sizes = await page.locator(".map img").evaluate((image) => [image.naturalWidth, image.naturalHeight]);
    assert.deepEqual(sizes, [256, 128]);
  },

  async wordsAreFoundInMarkdown(page) {
    const words = await page.evaluate(async () => {
      const { renderMarkdown } = await import("/markdown.js");
      const { splitWords, watchWords } = await import("/words.js");
      const answer = "The **to**tal: `12.50` [EUR](http://example.com)\n\n* a\n* 語";
      const article = document.createElement("article");
      article.innerHTML = renderMarkdown(answer);
      document.querySelector("#log").append(article);
      const before = article.textContent;
      // Of the first token nothing is known any more.
      const texts = [" **to", "**", "tal: `12", ".", "50` [EUR](http", "://example.com)\n\n* a", "\n* ", "語"];
      const found = splitWords(article, answer, texts.map((text) => ({ text })));
      watchWords(article, found, { onWord() {}, onPick() {} });
      found[0].span.focus();
      for (const key of ["ArrowRight", "End", "ArrowRight", "ArrowLeft"]) {
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      }
      const same = article.textContent === before;
      const stops = article.querySelectorAll(".word[tabindex='0']").length;
      const names = found.map((word) => [word.text, word.tokens.map((token) => token.text).join("|")]);
      return { same, stops, names, focused: document.activeElement.textContent };
    });
    assert.deepEqual(words, {
      same: true,
      stops: 1,
      names: [
        ["to", " **to"],
        ["tal", "tal: `12"],
        ["12.50", "tal: `12|.|50` [EUR](http"],
        ["EUR", "50` [EUR](http"],
        ["a", "://example.com)\n\n* a"],
        ["語", "語"],
      ],
      focused: "a",
    });
  },

  async takesPicturesThatAreDroppedAndPasted(page) {
    const base64 = readFileSync(sample).toString("base64");
    const send = (type) =>
      page.evaluate(
        ([kind, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "page.png", { type: "image/png" }));
          const event =
            kind === "drop"
              ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
              : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
          document.body.dispatchEvent(event);
        },
        [type, base64],
      );
    await send("drop");
    await page.locator("#pictures img").nth(0).waitFor();
    await send("paste");
    await page.locator("#pictures img").nth(1).waitFor();
    await page.getByLabel("Remove picture 2").click();
    assert.equal(await page.locator("#pictures img").count(), 1);
    assert.equal(await ask(page, "value of Q"), "18");
  },

  async stopsAnAnswer(page) {
    await page.route("**/v1/chat/completions", (route) =>
      route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true, max_tokens: 4000 }) }),
    );
    await page.locator("#files").setInputFiles(sample);
    await page.getByLabel("Question", { exact: true }).fill("value of W");
    // Stops at the first words, from within the page: an answer must not end before a pointer from outside arrives.
    await page.evaluate(() =>
      new MutationObserver((_, observer) => {
        if (!document.querySelector("article.assistant")) return;
        observer.disconnect();
        [...document.querySelectorAll("button")].find((e) => e.checkVisibility() && e.textContent.trim() === "Stop").click();
      }).observe(document.querySelector("#log"), { childList: true }),
    );
    await page.getByRole("button", { name: "Send" }).click();
    await page.locator("article.assistant .mark").getByText("Stopped.", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Send" }).waitFor();
    await page.waitForFunction(async () => (await (await fetch("slots")).json()).every((slot) => !slot.is_processing));
  },

  async tellsWhatWentWrong(page) {
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Budget").fill("nonsense");
    await page.getByLabel("Question", { exact: true }).fill("value of W");
    await page.keyboard.press("Enter");
    await page.getByRole("alert").getByText("nonsense").waitFor();
    assert.equal(await page.getByLabel("Question", { exact: true }).inputValue(), "value of W");
    await page.getByLabel("Budget").fill("");
    await page.getByLabel("Policy").selectOption("full");
    await page.locator("#policy-summary").getByText("keep every token").waitFor();
    assert.notEqual(await ask(page, "value of W"), "");
  },

  async showsMarkdownAndRunsNothingInIt(page) {
    const html = await page.evaluate(async () => {
      const { renderMarkdown } = await import("/markdown.js");
      return renderMarkdown("**bold** `code`\n\n<img src=x onerror=alert(1)><script>alert(2)</script>[a](javascript:alert(3))");
    });
    assert.match(html, /<strong>bold<\/strong> <code>code<\/code>/);
    assert.doesNotMatch(html, /script|onerror|<img/);
  },

  async everythingHasANameAndFitsNarrowScreens(page) {
    await page.locator("#files").setInputFiles(sample);
    await ask(page, "value of W");
    for (const width of [360, 768, 1280]) {
      await page.setViewportSize({ width, height: 800 });
      if (await page.locator("#show-memory").isVisible()) await page.locator("#show-memory").click();
      await page.locator("#maps .map svg").waitFor();
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(overflow <= 0, `${overflow} px too wide at ${width}`);
      if (await page.locator("#show-memory").isVisible()) await page.locator("#show-memory").click();
    }
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll("button, input:not([type=file]), select, textarea, [role=application], [role=meter], img")]
        .filter((e) => e.checkVisibility())
        .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.alt !== undefined || e.labels?.length))
        .map((e) => e.outerHTML),
    );
    assert.deepEqual(nameless, []);
  },
};

// With the bundled model: a sample is one click away. Also takes the pictures of the documentation.
async function offersSamples(page) {
  await page.getByRole("button", { name: "Lukas, Mon?" }).click();
  await page.locator("article.assistant").waitFor();
  await page.locator("#maps .map svg").waitFor();
  if (!screenshots) return;
  await ask(page, "Value of Dora for Mon?");
  await page.getByLabel("cells read").check();
  for (const width of [360, 768, 1280]) {
    await page.setViewportSize({ width, height: 800 });
    await page.screenshot({ path: path.join(screenshots, `page-${width}.png`) });
    await page.locator("article.assistant .word").last().click();
    await page.screenshot({ path: path.join(screenshots, `word-${width}.png`) });
    if (await page.locator("#memory.open").isVisible()) await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    if (!(await page.locator("#show-memory").isVisible())) continue;
    await page.locator("#show-memory").click();
    await page.screenshot({ path: path.join(screenshots, `memory-${width}.png`) });
    await page.locator("#show-memory").click();
  }
}

async function withPage(browser, url, name, test, ...more) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  page.setDefaultTimeout(60000);
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  // A refused request, a connection that breaks off, and what the page's policy blocks in an answer, are what tests ask for.
  const wanted = /status of 40[01]|Content Security Policy|ERR_INCOMPLETE_CHUNKED_ENCODING/;
  page.on("console", (message) => message.type() === "error" && !wanted.test(message.text()) && errors.push(message.text()));
  page.on("request", (request) => !/^(data|blob):/.test(request.url()) && !request.url().startsWith(url) && errors.push(request.url()));
  await page.goto(url);
  await test(page, ...more);
  assert.deepEqual(errors, [], "errors, or requests to elsewhere");
  await page.close();
  console.log(`passed: ${name}`);
}

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const servers = [];
try {
  servers.push(await startServer(tinyVlm));
  for (const [name, test] of Object.entries(tests)) await withPage(browser, servers[0].url, name, test);
  const csp = (await fetch(servers[0].url)).headers.get("Content-Security-Policy");
  for (const [name, test] of Object.entries(standInTests)) {
    const standIn = await startStandIn(csp);
    servers.push(standIn);
    await withPage(browser, standIn.url, name, test, standIn, loadAxe());
  }
  servers.push(await startServer(["--policy", "retentive", "--budget", "50%"]));
  await withPage(browser, servers.at(-1).url, offersSamples.name, offersSamples);
} finally {
  await browser.close();
  for (const server of servers) server.stop();
}
process.exit(0);
