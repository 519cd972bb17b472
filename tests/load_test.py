"""Many streaming clients at once, for a bounded time. Run by hand, also on a build with a sanitizer.

usage: load_test.py RKV REFERENCE_FOLDER [--clients 64] [--seconds 120]

Every client asks about the bundled sample and goes on from the answer, which must be the same each
time; every fifth turn a client hangs up in the middle instead. 503 with Retry-After is a right answer.
The server must be healthy in the end, hold nothing that runs, and exit with 0 when told to.
"""

import argparse
import base64
import http.client
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time

QUESTIONS = [("value of W", "59"), ("value of Z", "27"), ("value of Q", "18")]


def start_server(rkv, reference):
    server = subprocess.Popen(
        [rkv, "serve", "--port", "0", "-t", "2", "-np", "8", "--memory", "2MiB", "--policy", "retentive",
         "--budget", "20%", "-m", reference / "tiny-vlm-f16.gguf", "-mm", reference / "mmproj-tiny-vlm-f16.gguf"],
        stdout=subprocess.PIPE, text=True)
    return server, int(server.stdout.readline().rsplit(":", 1)[1])


class Load:
    def __init__(self, port, picture):
        self.port = port
        self.picture = picture
        self.lock = threading.Lock()
        self.counts = {"answers": 0, "hang-ups": 0, "busy": 0}
        self.errors = []

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def stream(self, messages, hang_up):
        """The answer; None if the server is busy or the client hung up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        body = {"messages": messages, "temperature": 0, "max_tokens": 16, "stream": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        if response.status == 503:
            assert response.getheader("Retry-After"), "503 without Retry-After"
            response.read()
            self.count("busy")
            return None
        assert response.status == 200, f"{response.status}: {response.read()}"
        text, done = "", False
        for line in response:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                done = True
                break
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
            if hang_up and text:
                connection.close()
                self.count("hang-ups")
                return None
        assert done, "the stream ended early"
        connection.close()
        self.count("answers")
        return text

    def client(self, number, end):
        turn = number
        try:
            while time.monotonic() < end:
                messages = []
                for question, answer in QUESTIONS:
                    part = [{"type": "image_url", "image_url": {"url": self.picture}}] if not messages else []
                    messages.append({"role": "user", "content": part + [{"type": "text", "text": question}]})
                    turn += 1
                    said = self.stream(messages, hang_up=turn % 5 == 0)
                    if said is None:
                        break
                    assert said == answer, f"{question}: {said!r} instead of {answer!r}"
                    messages.append({"role": "assistant", "content": said})
        except Exception as error:  # of a thread: told at the end
            with self.lock:
                self.errors.append(f"client {number}: {error!r}")


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rkv")
    parser.add_argument("reference", type=pathlib.Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=120)
    arguments = parser.parse_args()
    png = (arguments.reference / "samples" / "doc-1.png").read_bytes()
    server, port = start_server(arguments.rkv, arguments.reference)
    load = Load(port, "data:image/png;base64," + base64.b64encode(png).decode())
    try:
        end = time.monotonic() + arguments.seconds
        threads = [threading.Thread(target=load.client, args=(i, end)) for i in range(arguments.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if get(port, "/health")[0] != 200:
            load.errors.append("the server is not healthy")
        for _ in range(100):
            if not any(slot["is_processing"] for slot in json.loads(get(port, "/slots")[1])):
                break
            time.sleep(0.1)
        else:
            load.errors.append("something still runs")
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    if code != 0:
        load.errors.append(f"the server ended with {code}")
    if load.counts["answers"] == 0:
        load.errors.append("nothing was answered")
    print(load.counts)
    for error in load.errors[:20]:
        print(error, file=sys.stderr)
    sys.exit(1 if load.errors else 0)


main()
