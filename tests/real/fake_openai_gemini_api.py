#!/usr/bin/env python3
"""A fake of the OpenAI Responses, OpenAI Chat Completions and Gemini APIs for testing agent CLIs without a
network.

Loopback only, standard library only. Every request that offers tools consumes one step of a script; the last
step repeats. Every other request (a title, a summary) gets a short text at once.

    FAKE_SCRIPT='tool:/path/to/slow.sh;text:done' python3 fake_openai_gemini_api.py   # first line: the port

    codex     a model provider with base_url http://127.0.0.1:PORT/v1 and wire_api "responses"
    gemini    GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:PORT
    opencode  a provider of @ai-sdk/openai-compatible with baseURL http://127.0.0.1:PORT/v1
    qwen      OPENAI_BASE_URL=http://127.0.0.1:PORT/v1
    copilot   COPILOT_PROVIDER_BASE_URL=http://127.0.0.1:PORT/v1

Steps (none can contain ';')
    text[:T]     answer T
    tool:CMD     a call of the request's shell tool with the command CMD
    error:CODE   HTTP error CODE

Environment
    FAKE_SCRIPT  steps separated by ';' (default 'text')
    FAKE_BODIES  directory to store the bodies of requests with tools in (NNNN.json)
"""
import json
import os
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The names that the agents give to their shell tool.
SHELL_TOOLS = ["shell_command", "exec_command", "shell", "run_shell_command", "bash"]
# The names of the parameter that contains the command.
COMMANDS = ["cmd", "command"]
# 100 tokens of input, 10 of them from the cache, and 20 of output.
RESPONSES_USAGE = {
    "input_tokens": 100, "input_tokens_details": {"cached_tokens": 10},
    "output_tokens": 20, "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 120,
}
CHAT_USAGE = {
    "prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 10},
    "completion_tokens": 20, "total_tokens": 120,
}
GEMINI_USAGE = {
    "promptTokenCount": 100, "cachedContentTokenCount": 10,
    "candidatesTokenCount": 20, "totalTokenCount": 120,
}


class State:
    def __init__(self):
        self.lock = threading.Lock()
        self.script = os.environ.get("FAKE_SCRIPT", "text").split(";")
        self.bodies = os.environ.get("FAKE_BODIES")
        self.asked = 0

    def next_step(self, body):
        with self.lock:
            step = self.script[min(self.asked, len(self.script) - 1)]
            self.asked += 1
            if self.bodies:
                with open(f"{self.bodies}/{self.asked:04d}.json", "w") as file:
                    json.dump(body, file)
            return step


def tools_of(body):
    """The name and the schema of each tool that the request offers."""
    found = {}
    for tool in body.get("tools") or []:
        if "functionDeclarations" in tool:
            for declared in tool["functionDeclarations"]:
                schema = declared.get("parametersJsonSchema") or declared.get("parameters")
                found[declared["name"]] = schema or {}
        elif "function" in tool:
            found[tool["function"]["name"]] = tool["function"].get("parameters") or {}
        elif tool.get("type") == "function":
            found[tool["name"]] = tool.get("parameters") or {}
    return found


def argument(name, schema, command):
    kind = schema.get("type")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if name in COMMANDS:
        return ["bash", "-c", command] if kind == "array" else command
    if schema.get("enum"):
        return schema["enum"][0]
    # Numbers are times in milliseconds: longer than any test.
    return {"boolean": False, "integer": 60000, "number": 60000, "array": []}.get(kind, "x")


def shell_call(body, command):
    """The name of the request's shell tool, and its arguments by its schema."""
    tools = tools_of(body)
    name = next(name for name in SHELL_TOOLS if name in tools)
    properties = tools[name].get("properties") or {}
    # Without a yield time, codex returns from the call while the command still runs.
    wanted = [*COMMANDS, *(tools[name].get("required") or []), "yield_time_ms"]
    return name, {key: argument(key, properties[key], command) for key in properties if key in wanted}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send_json(self, code, value):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_failure(self, code):
        kind = "invalid_request_error" if code < 500 else "server_error"
        self.send_json(code, {"error": {"message": f"fake error ({code})", "code": code, "type": kind}})

    def events(self, *values):
        """Sends the events as a stream; named ones have a `type`."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for value in values:
            name = f"event: {value['type']}\n" if "type" in value else ""
            self.wfile.write(f"{name}data: {json.dumps(value)}\n\n".encode())

    def do_GET(self):
        if "models" in self.path:
            models = [{"id": "m", "object": "model", "created": 1, "owned_by": "f"}]
            return self.send_json(200, {"object": "list", "data": models, "models": []})
        self.send_failure(404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        path = self.path.split("?")[0]
        if ":countTokens" in path:
            return self.send_json(200, {"totalTokens": 100})
        answer = next((answer for end, answer in ANSWERS.items() if end in path), None)
        if answer is None:
            return self.send_failure(404)
        step = self.server.state.next_step(body) if tools_of(body) else "text:ok"
        kind, _, value = step.partition(":")
        try:
            if kind == "error":
                self.send_failure(int(value))
            elif kind == "tool":
                answer(self, body, None, shell_call(body, value))
            else:
                answer(self, body, value or "Hello from the fake API.", None)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer_responses(self, body, text, call):
        if call:
            item = {"type": "function_call", "id": "fc_1", "call_id": call_id(), "name": call[0],
                    "arguments": json.dumps(call[1]), "status": "completed"}
        else:
            content = [{"type": "output_text", "text": text, "annotations": []}]
            item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                    "content": content}
        response = {"id": "resp_1", "object": "response", "created_at": int(time.time()),
                    "model": body.get("model"), "status": "completed", "output": [item],
                    "usage": RESPONSES_USAGE}
        begun = {**response, "status": "in_progress", "output": [], "usage": None}
        self.events(
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": response},
        )

    def answer_chat(self, body, text, call):
        delta = {"role": "assistant", "content": text or ""}
        if call:
            function = {"name": call[0], "arguments": json.dumps(call[1])}
            delta["tool_calls"] = [{"index": 0, "id": call_id(), "type": "function", "function": function}]
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": int(time.time()),
                "model": body.get("model")}
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if call else "stop"}
        self.events({**base, "choices": [choice]}, {**base, "choices": [end]},
                    {**base, "choices": [], "usage": CHAT_USAGE})

    def answer_gemini(self, body, text, call):
        part = {"functionCall": {"name": call[0], "args": call[1]}} if call else {"text": text}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        self.events({"candidates": [candidate], "usageMetadata": GEMINI_USAGE, "modelVersion": "fake"})


def call_id():
    return "call_" + uuid.uuid4().hex[:8]


ANSWERS = {
    "/responses": Handler.answer_responses,
    "/chat/completions": Handler.answer_chat,
    ":streamGenerateContent": Handler.answer_gemini,
}


class Server(ThreadingHTTPServer):
    daemon_threads = True


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    server.state = State()
    print(server.server_address[1], flush=True)
    server.serve_forever()
