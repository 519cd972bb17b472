"""rkv serve with the official OpenAI client. Exits with 77 (skipped) where that is not installed.

usage: openai_client_test.py RKV SAMPLES_FOLDER
"""

import base64
import json
import pathlib
import re
import subprocess
import sys

try:
    import openai
except ImportError:
    print("skipped: the Python package 'openai' is not installed (scripts/test.sh fetches it)")
    sys.exit(77)

rkv, samples = sys.argv[1], pathlib.Path(sys.argv[2])


def picture(name):
    data = base64.b64encode((samples / name).read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}}


def user(text, *pictures):
    return {"role": "user", "content": [*map(picture, pictures), {"type": "text", "text": text}]}


def check(condition, what):
    if not condition:
        raise SystemExit("failed: " + what)


def main(client):
    check([m.id for m in client.models.list()] == ["tiny-vlm"], "models")
    ask = {"model": "tiny-vlm", "temperature": 0, "max_tokens": 16}

    # Every bundled question, each picture's as one conversation: not streamed, then streamed.
    n_answers = 0
    for line in (samples / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        for stream in (False, True):
            messages = []
            # Names keep the two runs apart, so that each reads its pictures.
            session = {"extra_body": {"session_id": f"stream-{stream}"}}
            for turn in sample["turns"][:3]:
                names = sample["images"] if not messages else []
                messages.append(user(turn["question"], *names))
                if stream:
                    options = {"stream": True, "stream_options": {"include_usage": True}}
                    answer = ""
                    for chunk in client.chat.completions.create(
                        messages=messages, **ask, **options, **session
                    ):
                        answer += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                        usage = chunk.usage
                else:
                    response = client.chat.completions.create(messages=messages, **ask, **session)
                    answer, usage = response.choices[0].message.content, response.usage
                    check(response.choices[0].finish_reason == "stop", "finish_reason")
                check(answer == turn["answer"], f"{turn} was answered {answer}")
                cached = usage.prompt_tokens_details.cached_tokens
                check((cached > 0) == (len(messages) > 1), f"cached tokens: {cached}")
                messages.append({"role": "assistant", "content": answer})
                n_answers += 1
    check(n_answers >= 30, "enough answers")

    response = client.chat.completions.create(
        messages=[user("color of S", "scene-1.png")], logprobs=True, top_logprobs=2, **ask
    )
    check(len(response.choices[0].logprobs.content[0].top_logprobs) == 2, "logprobs")
    check(client.completions.create(prompt="value of W", **ask).object == "text_completion", "text")

    for expected, change in (
        (openai.BadRequestError, {"temperature": -1}),
        (openai.BadRequestError, {"messages": []}),
        (openai.AuthenticationError, None),
    ):
        try:
            who = client if change is not None else client.with_options(api_key="wrong")
            who.chat.completions.create(
                **{**ask, "messages": [user("color of S", "scene-1.png")], **(change or {})}
            )
            raise SystemExit(f"failed: {change} was not refused")
        except expected as error:
            check("message" in error.response.json()["error"], "an error's message")
    print(f"{n_answers} answers")


model = samples.parent / "tiny-vlm-f16.gguf"
command = [rkv, "serve", "-m", model, "-mm", model.with_name("mmproj-" + model.name), "-a", "tiny-vlm"]
command += ["--port", "0", "-t", "2", "--api-key", "secret"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
        port = re.search(r":(\d+)$", server.stdout.readline().strip()).group(1)
        main(
            openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", timeout=120, max_retries=0
            )
        )
    finally:
        server.terminate()
