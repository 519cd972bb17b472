// What the page does with a server that a test plays: tests of page_test.mjs, by name, each a function of the page, the
// stand-in and axe's source (empty where axe-core is not installed).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const sample = fileURLToPath(new URL("../web/samples/form.png", import.meta.url));

const box = (page) => page.getByLabel("Question", { exact: true });
const pressed = (page, name) => page.getByRole("button", { name, exact: true });
const answers = (page) => page.locator("article.assistant .content").allInnerTexts();
const questions = (page) => page.locator("article.user p").allInnerTexts();
const boxText = (page) => box(page).inputValue();
const settled = async (page) => page.locator("#stop").waitFor({ state: "hidden" });
const texts = (body) => body.messages.map(({ role, content }) => [role, typeof content === "string" ? content : content.at(-1).text]);

// Answers each question with what `make` gives for its text: a text, or what a writer is to do.
function answerWith(standIn, make) {
  standIn.answer = async (body, writer) => {
    const said = make(texts(body).at(-1)[1], body);
    if (typeof said === "function") return said(writer);
    writer.text(said);
    writer.end();
  };
}

const echo = (standIn) => answerWith(standIn, (question) => `to ${question}`);

async function send(page, question) {
  await box(page).fill(question);
  await page.keyboard.press("Enter");
  await settled(page);
}

// Waits until the browser has `n` answers, and what the cache held after each.
export async function keptAnswers(page, n) {
  await page.waitForFunction(async (wanted) => {
    const store = await import("/store.js");
    const chats = await store.listChats();
    const memories = await Promise.all(chats.map((chat) => store.getMemories(chat.id)));
    const answers = chats.flatMap((chat) => chat.messages).filter((message) => message.role === "assistant");
    return answers.length >= wanted && memories.reduce((sum, { size }) => sum + size, 0) >= wanted;
  }, n);
}

async function addPicture(page, name, mimeType, buffer) {
  const before = await page.locator("#pictures img").count();
  await page.locator("#files").setInputFiles({ name, mimeType, buffer });
  await page.locator("#pictures img").nth(before).waitFor();
}

// A picture that a canvas makes of `paint`, as bytes.
export async function makePicture(page, width, height, type, paint = "") {
  const base64 = await page.evaluate(
    async ([w, h, mime, kind]) => {
      const canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
      const context = canvas.getContext("2d");
      if (kind === "halves") {
        context.fillStyle = "#f00";
        context.fillRect(0, 0, w / 2, h);
        context.fillStyle = "#00f";
        context.fillRect(w / 2, 0, w / 2, h);
      } else if (kind === "noise") {
        const image = context.createImageData(w, h);
        let state = 1;
        for (let i = 0; i < image.data.length; ++i) {
          state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
          image.data[i] = i % 4 === 3 ? 255 : state >>> 24;
        }
        context.putImageData(image, 0, 0);
      }
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, mime, 1));
      return btoa(Array.from(new Uint8Array(await blob.arrayBuffer()), (byte) => String.fromCharCode(byte)).join(""));
    },
    [width, height, type, paint],
  );
  return Buffer.from(base64, "base64");
}

// The JPEG with EXIF data that says how it is to be turned.
export function withOrientation(jpeg, orientation) {
  const tiff = Buffer.from("4d4d002a00000008000101120003000000010000000000000000", "hex");
  tiff.writeUInt16BE(orientation, 18);
  const data = Buffer.concat([Buffer.from("Exif\0\0"), tiff]);
  const head = Buffer.from([0xff, 0xe1, 0, data.length + 2]);
  return Buffer.concat([jpeg.subarray(0, 2), head, data, jpeg.subarray(2)]);
}

const pictureUrls = (body) => body.messages.flatMap(({ content }) => (Array.isArray(content) ? content : [])).flatMap((part) => part.image_url?.url ?? []);

// What was sent of a picture: its type, size, and the colours of places (as shares of its sides).
async function look(page, url, places = []) {
  return page.evaluate(
    async ([source, where]) => {
      const image = new Image();
      image.src = source;
      await image.decode();
      const [width, height] = [image.naturalWidth, image.naturalHeight];
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const colours = where.map(([x, y]) => [...context.getImageData(Math.floor(x * width), Math.floor(y * height), 1, 1).data.slice(0, 3)].map((c) => Math.round(c / 51)).join(""));
      return { type: source.slice(5, source.indexOf(";")), width, height, colours };
    },
    [url, places],
  );
}

const WIDE = `# Result

A ${"very".repeat(60)} long word and \`${"code".repeat(40)}\`

\`\`\`
${"x = ".repeat(60)}
\`\`\`

| ${"a column | ".repeat(12)}
|${"---|".repeat(12)}
| ${"value | ".repeat(12)}

> quoted ${"https://example.com/".repeat(20)}
`;

// What a model may write to break the page, and what must not be in it.
const HOSTILE = [
  "<p id=question>hello</p><p id=send>s</p><p id=composer>c</p>",
  "<a id=status name=status href=#>x</a><p id=settings>s</p><p id=memory>m</p><p id=log>l</p>",
  "<textarea id=question>fake</textarea><form id=composer></form>",
  "<input name=policy form=settings value=x><button form=composer>go</button><select><option>x</select>",
  "<label for=question>x</label><fieldset disabled><output name=x>y</output></fieldset><meter value=1></meter>",
  '<div class="error" role="alert" aria-label="Send" data-x="1" style="position:fixed" hidden>x</div>',
  "<dialog open>x</dialog><article class=user>You said so</article><details open ontoggle=window.PWNED=1>x</details>",
  "<script>window.PWNED=1</script><img src=x onerror=window.PWNED=1><svg onload=window.PWNED=1></svg>",
  "<a href=\"javascript:window.PWNED=1\">x</a> [x](javascript:window.PWNED=1) <a href=\"jav&#x09;ascript:window.PWNED=1\">x</a>",
  "<iframe srcdoc='<script>parent.PWNED=1</script>'></iframe><object data=x></object><embed src=x><base href=//evil.test>",
  "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=window.PWNED=1&gt;\">",
  "<svg></p><style><a id=\"</style><img src=1 onerror=window.PWNED=1>\">",
  "<table background=//evil.test/x><tr><td background=//evil.test/y>x</table><video poster=//evil.test/z></video>",
  ">".repeat(5000) + "x",
  Array.from({ length: 1500 }, (_, i) => `${" ".repeat(i)}- x\n`).join(""),
  "*".repeat(50000) + "a" + "*".repeat(50000),
  "[".repeat(30000),
  "a".repeat(200000),
];

export const standInTests = {
  async answersAreNeverWiderThanTheScreen(page, standIn) {
    answerWith(standIn, () => WIDE);
    await page.setViewportSize({ width: 360, height: 800 });
    await send(page, "long".repeat(100));
    for (const width of [360, 768]) {
      await page.setViewportSize({ width, height: 800 });
      const sizes = await page.evaluate(() => {
        const log = document.querySelector("#log");
        const right = (name) => Math.max(...[...document.querySelectorAll(name)].map((e) => e.getBoundingClientRect().right));
        const scrolls = [...document.querySelectorAll("article pre, article table")].map((e) => e.scrollWidth > e.clientWidth);
        return { log: log.scrollWidth - log.clientWidth, page: document.documentElement.scrollWidth - innerWidth, most: right("article, article *:not(pre *, table *)"), scrolls };
      });
      assert.equal(sizes.log, 0);
      assert.equal(sizes.page, 0);
      assert.ok(sizes.most <= width, `${sizes.most} of ${width}`);
      if (width === 360) assert.deepEqual(sizes.scrolls, [true, true], "they scroll in their own boxes");
    }
    await page.setViewportSize({ width: 360, height: 800 });
    await page.locator("article pre[tabindex='0']").waitFor();
    await page.locator("article table[tabindex='0']").waitFor();
  },

  async memoryTellsOfAnAnswerInOneLine(page, standIn) {
    answerWith(standIn, () => WIDE);
    await send(page, "What is it?");
    const name = page.locator("#turn-name");
    await name.filter({ hasText: "What is it?" }).waitFor();
    assert.match(await name.innerText(), /^Turn 1 of 1: “What is it\?” → “# Result/);
    assert.ok((await name.boundingBox()).height < 30);
  },

  async questionsThatFailComeBack(page, standIn) {
    echo(standIn);
    await send(page, "one");
    standIn.refuse = () => "unknown budget 'much'";
    await page.locator("#files").setInputFiles(sample);
    await page.locator("#pictures img").waitFor();
    await send(page, "two");
    await page.getByRole("alert").getByText("unknown budget 'much'").waitFor();
    assert.equal(await boxText(page), "two");
    assert.equal(await page.locator("#pictures img").count(), 1);
    assert.deepEqual(await questions(page), ["one"]);
    // What was written meanwhile stays behind it.
    standIn.refuse = null;
    answerWith(standIn, () => async (writer) => {
      await box(page).fill("three");
      writer.response.destroy();
    });
    await page.keyboard.press("Enter");
    await page.getByRole("alert").getByText("The connection to the server broke off.").waitFor();
    assert.equal(await boxText(page), "two\n\nthree");
    assert.equal(await page.locator("#pictures img").count(), 1);
    echo(standIn);
    await send(page, "two");
    assert.deepEqual(await answers(page), ["to one", "to two"]);
    assert.equal(await page.getByRole("alert").count(), 0);
    assert.deepEqual(texts(standIn.requests.at(-1)), [["user", "one"], ["assistant", "to one"], ["user", "two"]]);
  },

  async cutAnswersAreMarkedAndGoOn(page, standIn) {
    answerWith(standIn, (question) => (writer) => {
      writer.text(question === "Count." ? "one, two, th" : "ree, four");
      question === "Count." ? writer.end("length", 512) : writer.end();
    });
    await send(page, "Count.");
    await page.getByText("Cut at its limit of 512 tokens.", { exact: true }).waitFor();
    await pressed(page, "Continue").click();
    await page.locator("article.assistant").nth(1).waitFor();
    await settled(page);
    assert.deepEqual(await answers(page), ["one, two, th", "ree, four"]);
    assert.deepEqual(await questions(page), ["Count."], "what asks to go on is not shown");
    const sent = texts(standIn.requests.at(-1));
    assert.deepEqual(sent.slice(0, 2), [["user", "Count."], ["assistant", "one, two, th"]]);
    assert.match(sent[2][1], /^Continue exactly where you stopped/);
    assert.equal(await pressed(page, "Continue").isVisible(), false, "a whole answer needs none");
    assert.equal(await page.getByText("Cut at its limit of 512 tokens.", { exact: true }).isVisible(), false);
    // So it is after a reload.
    await keptAnswers(page, 2);
    await page.reload();
    await page.locator("article.assistant").nth(1).waitFor();
    assert.deepEqual(await questions(page), ["Count."]);
    assert.equal(await page.getByText("Cut at its limit of 512 tokens.").count(), 1);
  },

  async answersThatStopOrBreakAreMarked(page, standIn) {
    let write = null;
    answerWith(standIn, (question) => async (writer) => {
      if (question !== "nothing") writer.text(`some words of ${question}`);
      if (question === "breaks") setTimeout(() => writer.response.destroy(), 100);
      write = writer;
    });
    await box(page).fill("stops");
    await page.keyboard.press("Enter");
    await page.locator("article.assistant").waitFor();
    await pressed(page, "Stop").click();
    await page.getByText("Stopped.", { exact: true }).waitFor();
    assert.ok(await pressed(page, "Continue").isVisible());
    await send(page, "breaks");
    await page.getByText("Not complete: The connection to the server broke off.", { exact: true }).waitFor();
    assert.deepEqual(await answers(page), ["some words of stops", "some words of breaks"]);
    assert.ok(await pressed(page, "Continue").isVisible());
    // Before the first word, there is nothing to keep.
    await box(page).fill("nothing");
    await page.keyboard.press("Enter");
    await page.locator(".waiting").waitFor();
    await page.keyboard.press("Escape");
    await settled(page);
    assert.equal(await boxText(page), "nothing");
    assert.equal(await page.locator(".waiting").count(), 0);
    assert.deepEqual(await questions(page), ["stops", "breaks"]);
    assert.ok(write);
  },

  async waitsVisiblyForTheFirstWord(page, standIn) {
    let go = null;
    answerWith(standIn, () => async (writer) => {
      await new Promise((resolve) => (go = resolve));
      writer.text("at last");
      writer.end();
    });
    await box(page).fill("go");
    await page.keyboard.press("Enter");
    await page.locator(".waiting").getByText("Reading").waitFor();
    await page.locator(".waiting").getByText("1 s").waitFor();
    assert.equal(await page.locator("article.assistant").count(), 0);
    go();
    await settled(page);
    assert.deepEqual(await answers(page), ["at last"]);
    assert.equal(await page.locator(".waiting").count(), 0);
  },

  async renderingIsLinear(page) {
    // How many characters are parsed, if each word of an answer is rendered, for each that it has.
    const work = (kind, n) =>
      page.evaluate(
        async ([what, count]) => {
          const { marked } = await import("/vendor/marked.js");
          const { MarkdownStream } = await import("/markdown.js");
          const { lexer } = marked;
          let parsed = 0;
          marked.lexer = (text) => {
            parsed += text.length;
            return lexer(text);
          };
          const stream = new MarkdownStream(document.createElement("div"));
          let length = 0;
          for (let i = 0; i < count; ++i) {
            const word = { prose: i % 40 === 39 ? "end.\n\n" : "word ", list: i % 8 === 0 ? "\n- " : "word ", numbers: i % 8 === 0 ? `\n${1 + i / 8}. ` : "word " }[what];
            length += word.length;
            stream.add(word);
            stream.render();
          }
          marked.lexer = lexer;
          return parsed / length;
        },
        [kind, n],
      );
    for (const kind of ["prose", "list", "numbers"]) {
      const [short, long] = [await work(kind, 400), await work(kind, 1600)];
      assert.ok(long < 1.2 * short, `${kind}: ${short.toFixed(1)} for each character of a short answer, ${long.toFixed(1)} of a long one`);
    }
  },

  async aStreamShowsWhatTheWholeShows(page) {
    const texts = await page.evaluate(async (wide) => {
      const { MarkdownStream, renderMarkdown } = await import("/markdown.js");
      const text = `${wide}\nTitle\n=====\n\n1. a\n2. b\n   - c\n   - d\n\n3. e\r\n\r\nend of *it*\n\n\`\`\`\ncode\n\nmore\n\`\`\`\n- x\n\n  y\n- z`;
      const streamed = document.createElement("div");
      const stream = new MarkdownStream(streamed);
      for (const character of text) {
        stream.add(character);
        stream.render();
      }
      const whole = document.createElement("div");
      whole.innerHTML = renderMarkdown(text);
      return [streamed, whole].map((e) => e.textContent.replace(/\s+/g, " "));
    }, WIDE);
    assert.equal(texts[0], texts[1]);
  },

  async copiesAnswersAndCode(page, standIn) {
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
    answerWith(standIn, () => (writer) => {
      writer.text("So:\n\n```js\nlet a = 1;\n```\n");
      writer.end("length");
    });
    await send(page, "Which?");
    await page.getByRole("button", { name: "Copy code" }).click();
    await page.getByText("Copied", { exact: true }).first().waitFor();
    assert.equal(await clipboard(), "let a = 1;\n");
    await page.getByRole("button", { name: "Copy question" }).click();
    await page.waitForFunction(async () => (await navigator.clipboard.readText()) === "Which?");
    answerWith(standIn, () => "And **more**.");
    await pressed(page, "Continue").click();
    await page.locator("article.assistant").nth(1).waitFor();
    await settled(page);
    await page.getByRole("button", { name: "Copy answer" }).nth(1).click();
    await page.waitForFunction(async () => (await navigator.clipboard.readText()) === "So:\n\n```js\nlet a = 1;\n```\nAnd **more**.");
    // Where there is no clipboard, as on other machines without TLS.
    await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
    await page.getByRole("button", { name: "Copy question" }).click();
    await page.getByText("Copied", { exact: true }).first().waitFor();
    assert.equal(await page.locator("body > textarea").count(), 0);
  },

  async regenerates(page, standIn) {
    let n = 0;
    answerWith(standIn, () => `answer ${++n}`);
    await send(page, "one");
    await send(page, "two");
    await pressed(page, "Regenerate").click();
    await page.getByText("answer 3", { exact: true }).waitFor();
    await settled(page);
    assert.deepEqual(await answers(page), ["answer 1", "answer 3"]);
    assert.deepEqual(await questions(page), ["one", "two"]);
    assert.deepEqual(texts(standIn.requests.at(-1)), [["user", "one"], ["assistant", "answer 1"], ["user", "two"]]);
    assert.match(await page.locator("#turn-name").innerText(), /Turn 2 of 2.*two.*answer 3/);
    // The old answer stays if there is no new one.
    standIn.refuse = () => "too busy";
    await pressed(page, "Regenerate").click();
    await page.getByRole("alert").getByText("too busy").waitFor();
    assert.deepEqual(await answers(page), ["answer 1", "answer 3"]);
    assert.equal(await boxText(page), "");
    standIn.refuse = null;
    await send(page, "three");
    assert.equal(texts(standIn.requests.at(-1)).length, 5);
  },

  async editsAQuestion(page, standIn) {
    echo(standIn);
    for (const question of ["one", "two", "three"]) await send(page, question);
    await box(page).fill("draft");
    await page.getByRole("button", { name: "Edit question" }).nth(1).click();
    assert.equal(await boxText(page), "two");
    await page.getByText("Asks an earlier question again").waitFor();
    await page.keyboard.press("Escape");
    assert.equal(await boxText(page), "draft");
    await page.getByRole("button", { name: "Edit question" }).nth(1).click();
    // Nothing is lost if it fails.
    standIn.refuse = () => "too busy";
    await send(page, "two!");
    await page.getByRole("alert").waitFor();
    assert.deepEqual(await questions(page), ["one", "two", "three"]);
    assert.equal(await boxText(page), "two!");
    standIn.refuse = null;
    await page.keyboard.press("Enter");
    await page.getByText("to two!", { exact: true }).waitFor();
    await settled(page);
    assert.deepEqual(await questions(page), ["one", "two!"]);
    assert.deepEqual(await answers(page), ["to one", "to two!"]);
    assert.deepEqual(texts(standIn.requests.at(-1)), [["user", "one"], ["assistant", "to one"], ["user", "two!"]]);
    assert.equal(await boxText(page), "draft");
    assert.equal(await page.locator("#editing").isVisible(), false);
    await page.locator("#turn-name").getByText("Turn 2 of 2").waitFor();
  },

  async keepsChats(page, standIn) {
    answerWith(standIn, (question) => (writer) => {
      writer.thoughts("so it is");
      writer.text(`to ${question}`);
      writer.end();
    });
    await page.locator("#files").setInputFiles(sample);
    await page.locator("#pictures img").waitFor();
    await send(page, "first question");
    await page.locator("#turn-name").getByText("first question").waitFor();
    const url = pictureUrls(standIn.requests.at(-1))[0];
    await keptAnswers(page, 1);
    await page.reload();
    await page.getByText("to first question", { exact: true }).waitFor();
    assert.equal(await page.locator("article.user img").count(), 1);
    assert.equal(await page.locator("article.assistant details").getByText("so it is").count(), 1);
    await page.locator("#turn-name").getByText("first question").waitFor();
    await send(page, "and again");
    const body = standIn.requests.at(-1);
    assert.equal(texts(body).length, 3);
    assert.equal(pictureUrls(body)[0], url, "the same bytes");
    assert.equal(body.session_id, standIn.requests[0].session_id);

    await pressed(page, "New chat").click();
    await page.getByText("Drop pictures here").waitFor();
    await send(page, "second question");
    assert.notEqual(standIn.requests.at(-1).session_id, body.session_id);
    await box(page).fill("not sent yet");
    await pressed(page, "Chats").click();
    const titles = () => page.locator("#chat-list .title").allInnerTexts();
    const item = (title) => page.locator("#chat-list").getByRole("button", { name: title, exact: true });
    await item("first question").click();
    await page.getByText("to and again", { exact: true }).waitFor();
    assert.deepEqual(await questions(page), ["first question", "and again"]);
    assert.equal(await boxText(page), "");
    await item("second question").click();
    await page.getByText("to second question", { exact: true }).waitFor();
    assert.equal(await boxText(page), "not sent yet");

    await item("Rename first question").click();
    await page.getByLabel("Name of the chat").fill("Forms");
    await page.keyboard.press("Enter");
    await item("Forms").waitFor();
    await item("Rename Forms").click();
    await page.keyboard.press("Escape");
    await item("Forms").waitFor();
    await page.reload();
    await page.getByText("to second question", { exact: true }).waitFor();
    await pressed(page, "Chats").click();
    await item("Forms").waitFor();
    assert.deepEqual((await titles()).sort(), ["Forms", "second question"]);
    await item("Delete second question").click();
    assert.equal((await titles()).length, 2, "asked once more");
    await item("Really? Delete second question").click();
    await page.getByText("Drop pictures here").waitFor();
    assert.deepEqual(await titles(), ["Forms"]);
    await send(page, "third question");
    await item("third question").waitFor();
    await page.getByRole("button", { name: "Delete all chats" }).click();
    await page.getByRole("button", { name: "Really? Delete all chats" }).click();
    await page.getByText("No chats yet").waitFor();
    assert.equal(await page.locator("article").count(), 0);
    assert.equal(await page.evaluate(async () => (await (await import("/store.js")).getMemories("x")).size), 0);
  },

  async leavingLosesNoQuestion(page, standIn) {
    let go = null;
    answerWith(standIn, () => async (writer) => {
      go = writer;
    });
    const ask = async (question) => {
      go = null;
      await box(page).fill(question);
      await page.keyboard.press("Enter");
      while (!go) await page.waitForTimeout(20);
    };
    await ask("one");
    await page.waitForFunction(async () => (await (await import("/store.js")).listChats()).some((chat) => chat.draft));
    await page.reload();
    await page.waitForFunction(() => document.querySelector("#question").value === "one");
    assert.deepEqual(await questions(page), []);
    await ask("one");
    await pressed(page, "New chat").click();
    assert.equal(await boxText(page), "");
    assert.deepEqual(await questions(page), []);
    await ask("two");
    go.text("some words");
    await page.locator("article.assistant").waitFor();
    await box(page).fill("typed meanwhile");
    await pressed(page, "Chats").click();
    await page.locator("#chat-list").getByRole("button", { name: "one", exact: true }).click();
    await page.waitForFunction(() => document.querySelector("#question").value === "one");
    assert.equal(await page.locator("article").count(), 0);
    await page.locator("#chat-list").getByRole("button", { name: "two", exact: true }).click();
    await page.getByText("Stopped.", { exact: true }).waitFor();
    assert.deepEqual(await answers(page), ["some words"]);
    assert.equal(await boxText(page), "typed meanwhile");
    echo(standIn);
    await send(page, "three");
    assert.deepEqual(await answers(page), ["some words", "to three"]);
  },

  async keepsNothingIfAsked(page, standIn) {
    echo(standIn);
    await pressed(page, "Settings").click();
    await page.getByLabel("Keep chats in this browser").uncheck();
    await send(page, "secret");
    await page.reload();
    await page.locator("#model", { hasText: "stand-in" }).waitFor();
    await pressed(page, "Chats").click();
    await page.getByText("No chats yet").waitFor();
    assert.equal(await page.locator("article").count(), 0);
  },

  async settingsChooseAndAreKept(page, standIn) {
    echo(standIn);
    await page.getByText("stand-in · policy retentive · budget 20%", { exact: true }).waitFor();
    await pressed(page, "Settings").click();
    const policy = page.getByLabel("Policy");
    assert.deepEqual(await policy.locator("option").allInnerTexts(), ["the server's: retentive", "full", "retentive", "streaming"]);
    assert.equal(await page.locator("#policy-summary").innerText(), "keeps what is likely to be read");
    await policy.selectOption("streaming");
    assert.equal(await page.locator("#policy-summary").innerText(), "keeps the first and the last tokens");
    await page.getByLabel("Budget").fill("30%");
    await page.getByLabel("Temperature").fill("0.5");
    await page.getByLabel("Longest answer").fill("");
    await page.getByLabel("Longest answer").blur();
    const header = "stand-in · policy streaming · budget 30% (settings)";
    await page.getByText(header, { exact: true }).waitFor();
    await page.reload();
    await page.getByText(header, { exact: true }).waitFor();
    await send(page, "go");
    const { kv, temperature, max_tokens: limit } = standIn.requests.at(-1);
    assert.deepEqual(kv, { trace: true, policy: "streaming", budget: "30%" });
    assert.equal(temperature, 0.5);
    assert.equal(limit, undefined);
    await pressed(page, "Settings").click();
    await page.getByLabel("Budget").fill("");
    await policy.selectOption("full");
    await page.getByText("stand-in · policy full · no budget (settings)", { exact: true }).waitFor();
    await policy.selectOption("");
    await page.getByText("stand-in · policy retentive · budget 20%", { exact: true }).waitFor();
  },

  async picturesAreConvertedAndScaled(page, standIn) {
    echo(standIn);
    const note = (i) => page.locator("#pictures li").nth(i).locator("small");
    const png = readFileSync(sample);
    await addPicture(page, "form.png", "image/png", png);
    await addPicture(page, "a.webp", "image/webp", await makePicture(page, 60, 40, "image/webp", "halves"));
    const svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"><rect width="20" height="10" fill="#0f0"/></svg>';
    await addPicture(page, "a.svg", "image/svg+xml", Buffer.from(svg));
    const jpeg = await makePicture(page, 80, 40, "image/jpeg", "halves");
    await addPicture(page, "plain.jpg", "image/jpeg", jpeg);
    await addPicture(page, "turned.jpg", "image/jpeg", withOrientation(jpeg, 6));
    await addPicture(page, "large.png", "image/png", await makePicture(page, 3000, 2000, "image/png", "halves"));
    await addPicture(page, "large-turned.jpg", "image/jpeg", withOrientation(await makePicture(page, 3000, 2000, "image/jpeg", "halves"), 8));
    await addPicture(page, "noise.png", "image/png", await makePicture(page, 1400, 1000, "image/png", "noise"));
    await addPicture(page, "clear.webp", "image/webp", await makePicture(page, 10, 10, "image/webp"));
    assert.equal(await note(0).count(), 0);
    assert.match(await note(1).innerText(), /^60 × 40, .* → 60 × 40 PNG, /);
    assert.match(await note(2).innerText(), /^SVG → 1024 × 512 PNG, /);
    assert.equal(await note(3).count(), 0);
    assert.match(await note(5).innerText(), /^3000 × 2000, .* → 1773 × 1182 PNG, /);
    assert.match(await note(7).innerText(), /^1400 × 1000, .* → 1400 × 1000 JPEG, /);
    await send(page, "What is this?");
    const urls = pictureUrls(standIn.requests.at(-1));
    assert.equal(urls[0], `data:image/png;base64,${png.toString("base64")}`, "as it was");
    assert.equal(urls[3], `data:image/jpeg;base64,${jpeg.toString("base64")}`, "as it was");
    const [red, blue, green] = ["500", "005", "050"];
    const sides = [[0.2, 0.5], [0.8, 0.5]];
    const ends = [[0.5, 0.2], [0.5, 0.8]];
    assert.deepEqual(await look(page, urls[1], sides), { type: "image/png", width: 60, height: 40, colours: [red, blue] });
    assert.deepEqual(await look(page, urls[2], sides), { type: "image/png", width: 1024, height: 512, colours: [green, green] });
    assert.deepEqual(await look(page, urls[4], ends), { type: "image/png", width: 40, height: 80, colours: [red, blue] });
    assert.deepEqual(await look(page, urls[5], sides), { type: "image/png", width: 1773, height: 1182, colours: [red, blue] });
    assert.deepEqual(await look(page, urls[6], ends), { type: "image/jpeg", width: 1182, height: 1773, colours: [blue, red] });
    assert.equal((await look(page, urls[7])).type, "image/jpeg");
    assert.ok(urls[7].length < 2 ** 21);
    assert.deepEqual((await look(page, urls[8], sides)).colours, ["555", "555"], "white shines through");
    assert.ok(!urls[4].includes(Buffer.from("Exif").toString("base64").slice(0, 4)) && !Buffer.from(urls[4].split(",")[1], "base64").includes("Exif"));

    // A question waits for its pictures.
    await box(page).fill("And this?");
    await page.evaluate(async ([name, data]) => {
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name, { type: "image/png" }));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
      document.querySelector("#composer").requestSubmit();
    }, ["form.png", png.toString("base64")]);
    await page.locator("article.assistant").nth(1).waitFor();
    await settled(page);
    assert.equal(pictureUrls(standIn.requests.at(-1)).length, urls.length + 1);

    // What is no picture is refused here; the limit can be changed.
    await page.locator("#files").setInputFiles({ name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("hello") });
    await page.getByRole("alert").getByText("notes.txt is not a picture that this browser can read.").waitFor();
    await page.locator("#files").setInputFiles({ name: "cut.png", mimeType: "image/png", buffer: png.subarray(0, 60) });
    await page.getByRole("alert").getByText("cut.png is not a picture that this browser can read.").waitFor();
    assert.equal(await page.locator("#pictures img").count(), 0);
    await pressed(page, "Settings").click();
    await page.getByLabel("Largest picture, megapixels").fill("0.1");
    await addPicture(page, "large.png", "image/png", await makePicture(page, 3000, 2000, "image/png", "halves"));
    assert.match(await note(0).innerText(), / → 396 × 264 PNG/);
  },

  async textModelsHaveNoPictures(page, standIn) {
    standIn.props = { ...standIn.props, modalities: { vision: false, audio: false } };
    standIn.memory = { ...standIn.memory, layers: [{ n_kv_head: 1 }] };
    echo(standIn);
    await page.reload();
    await page.locator("#model", { hasText: "stand-in" }).waitFor();
    assert.equal(await page.locator("#attach").isVisible(), false);
    await pressed(page, "Settings").click();
    await send(page, "hello");
    await page.locator("#turn-name").getByText("hello").waitFor();
    await page.getByText("Layers", { exact: true }).click();
    await page.getByRole("columnheader", { name: "from text" }).waitFor();
    await pressed(page, "New chat").click();
    for (const text of [await page.locator("body").innerText(), await page.locator("#memory").innerText()]) assert.doesNotMatch(text, /picture/i);
    await page.evaluate(() => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(["x"], "page.png", { type: "image/png" }));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    });
    await page.getByRole("alert").getByText("This model reads text only.").waitFor();
  },

  async tellsAWrongKeyFromNone(page, standIn) {
    echo(standIn);
    standIn.key = "good";
    await page.reload();
    await page.locator("#model", { hasText: "This server needs an API key" }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.name), "key");
    await page.keyboard.type("bad");
    await page.keyboard.press("Tab");
    await page.locator("#model", { hasText: "The API key is wrong" }).waitFor();
    await send(page, "hello");
    await page.getByRole("alert").getByText("The API key is wrong.").waitFor();
    assert.equal(await boxText(page), "hello");
    await page.getByLabel("API key").fill("good");
    await page.keyboard.press("Tab");
    await page.locator("#model", { hasText: "stand-in" }).waitFor();
    await send(page, "hello");
    assert.deepEqual(await answers(page), ["to hello"]);
    // Until the tab is closed, and nowhere that lasts.
    await keptAnswers(page, 1);
    await page.reload();
    await page.getByText("to hello", { exact: true }).waitFor();
    await page.locator("#model", { hasText: "stand-in" }).waitFor();
    assert.doesNotMatch(await page.evaluate(() => JSON.stringify(localStorage)), /good/);
  },

  async thoughtsAreApart(page, standIn) {
    let go = null;
    answerWith(standIn, () => async (writer) => {
      writer.thoughts("first <b>this</b>, ");
      writer.thoughts("then that");
      await new Promise((resolve) => (go = resolve));
      writer.text("the answer");
      writer.end();
    });
    await box(page).fill("why?");
    await page.keyboard.press("Enter");
    await page.getByText("Thinking…").waitFor();
    while (!go) await page.waitForTimeout(20);
    go();
    await settled(page);
    const details = page.locator("article.assistant details");
    assert.equal(await details.evaluate((e) => e.open), false);
    assert.equal(await details.locator("summary").innerText(), "Thoughts");
    await details.locator("summary").click();
    assert.equal(await details.locator("div").innerText(), "first <b>this</b>, then that");
    assert.deepEqual(await answers(page), ["the answer"]);
  },

  async hostileAnswersBreakNothing(page, standIn) {
    let next = 0;
    answerWith(standIn, () => HOSTILE[next++]);
    for (let i = 0; i < HOSTILE.length; ++i) {
      await send(page, `question ${i}`);
      assert.equal(texts(standIn.requests.at(-1)).at(-1)[1], `question ${i}`);
      assert.equal(await page.locator("article.assistant").count(), i + 1, HOSTILE[i].slice(0, 80));
    }
    const found = await page.evaluate(() => {
      const all = [...document.querySelectorAll(".content *")].filter((e) => !e.closest(".code > button"));
      const bad = all.filter((e) => ["id", "name", "form", "for", "class", "role", "style", "hidden", "background"].some((name) => e.hasAttribute(name)) && e.className !== "code");
      const controls = all.filter((e) => e.matches("form, input, button, textarea, select, fieldset, label, output, dialog, article, img, iframe, object, svg, style, script"));
      const links = all.filter((e) => e.protocol === "javascript:");
      return { bad: bad.map((e) => e.outerHTML), controls: controls.map((e) => e.outerHTML), links: links.length, pwned: window.PWNED ?? 0 };
    });
    assert.deepEqual(found, { bad: [], controls: [], links: 0, pwned: 0 });
    assert.equal(await page.locator("#log [id]:not(#welcome, #samples)").count(), 0);
  },

  async isAccessible(page, standIn, axe) {
    if (!axe) return;
    answerWith(standIn, () => (writer) => {
      writer.thoughts("hm");
      writer.text(WIDE);
      writer.end("length", 512);
    });
    await addPicture(page, "a.webp", "image/webp", await makePicture(page, 60, 40, "image/webp", "halves"));
    await send(page, "What?");
    await addPicture(page, "a.webp", "image/webp", await makePicture(page, 60, 40, "image/webp", "halves"));
    standIn.refuse = () => "too busy";
    await send(page, "Again?");
    await page.getByRole("alert").waitFor();
    await page.evaluate(axe);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const width of [360, 768, 1280]) {
        await page.setViewportSize({ width, height: 800 });
        for (const panel of ["Chats", "Settings", "Memory"]) {
          if (!(await pressed(page, panel).isVisible())) continue;
          await pressed(page, panel).click();
          await page.waitForTimeout(100);
          const { violations } = await page.evaluate(() => window.axe.run());
          assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html.slice(0, 200))]), [], `${panel} at ${width}, ${colorScheme}`);
          await pressed(page, panel).click();
        }
      }
    }
  },
};
