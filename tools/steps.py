"""Runs the steps of `tools/test` and `tools/lint` one after the other and tells the truth about them.

A step is a command. Its output is shown while it runs and kept in a log. A step that ends with another code than 0,
or runs into its time limit, has failed; libtest's own counts are read from its output and added up.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Anywhere in a line: a child process of a test may have left half a line of its own before it.
RESULT = re.compile(r"test result: (?:ok|FAILED)\. (\d+) passed; (\d+) failed; (\d+) ignored; \d+ measured; (\d+) filtered out")
STARTED = re.compile(r"^\s*(?:Running \S.* \(.+\)|Doc-tests \S+)$")
SKIPPED = re.compile(r"^skipped test: ")
FAILED_TEST = re.compile(r"^test (\S.*) \.\.\. FAILED")


def target_dir():
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


class Steps:
    """What ran so far, and what came of it."""

    def __init__(self, log_name):
        os.chdir(ROOT)
        target_dir().mkdir(parents=True, exist_ok=True)
        self.log_path = target_dir() / log_name
        self.log = open(self.log_path, "w", encoding="utf-8")
        self.outcomes = []  # (name, fault or None, seconds)
        self.passed = self.failed = self.skipped = 0
        self.failed_tests = []
        self.session = None  # of the step that ran last: each has one of its own, and all it starts are in it

    def run(self, name, command, limit_seconds=3600, counts_tests=False):
        """Runs one step; returns whether it passed."""
        self.say(f"==> {name}: {' '.join(command)}")
        begun = time.monotonic()
        tally = Tally()
        fault = self._stream(command, limit_seconds, tally)
        if counts_tests:
            fault = tally.fault() if tally.failed or not fault else fault
            self.passed += tally.passed
            self.skipped += tally.skipped
            self.failed += tally.failed
            self.failed_tests += tally.failed_tests
        return self.record(name, fault, time.monotonic() - begun, counted=counts_tests and tally.failed > 0)

    def lint(self):
        """Runs every check that needs no server, the later ones even after a failed one: a reader wants the whole list."""
        toolchain = self.run("toolchain", ["tools/toolchain", "--lint"], limit_seconds=60)
        self.run("words", ["tools/check-words"], limit_seconds=60)
        self.run("codes", ["tools/check-codes"], limit_seconds=60)
        self.run("proofs", ["tools/check-proofs"], limit_seconds=60)
        self.run("links", ["tools/check-links"], limit_seconds=60)
        if toolchain:
            self.run("format", ["cargo", "fmt", "--all", "--check", "--", "--files-with-diff"], limit_seconds=300)
            self.run("arrows", ["tools/check-arrows"], limit_seconds=600)
            self.run("clippy", ["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
        return toolchain

    def record(self, name, fault, seconds=0.0, counted=False):
        """Notes the outcome of a step. A failed step counts as one failure unless its tests did already."""
        self.outcomes.append((name, fault, seconds))
        if fault is not None:
            self.say(f"==> {name}: FAILED, {fault}")
            if not counted:
                self.failed += 1
        return fault is None

    def finish(self, step_counts=False):
        """Prints the summary with the closing line last; returns the exit code."""
        self.say("")
        for name, fault, seconds in self.outcomes:
            self.say(f"{'ok    ' if fault is None else 'FAILED'} {name} ({seconds:.0f} s){': ' + fault if fault else ''}")
        for test in self.failed_tests:
            self.say(f"FAILED test {test}")
        self.say(f"log: {self.log_path}")
        passed = self.passed
        if step_counts:
            passed += sum(1 for _, fault, _ in self.outcomes if fault is None)
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        self.say(f"{passed} passed, {self.failed} failed{skipped}")
        self.log.close()
        return 1 if self.failed or not self.outcomes else 0

    def say(self, line):
        print(line, flush=True)
        self.log.write(ANSI.sub("", line) + "\n")
        self.log.flush()

    def _stream(self, command, limit_seconds, tally):
        """Runs a command, shows and logs its output; returns what went wrong, or None."""
        environment = dict(os.environ)
        if sys.stdout.isatty():
            environment.setdefault("CARGO_TERM_COLOR", "always")
        try:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            return f"{command[0]}: {error.strerror}"
        self.session = process.pid
        ended_by_itself = False
        try:
            for line in lines_of(process, time.monotonic() + limit_seconds):
                tally.read(ANSI.sub("", line))
                self.say(line)
            ended_by_itself = True
        except StillOpen as error:
            return str(error)
        except (TimeoutError, subprocess.TimeoutExpired):
            return f"not done after {limit_seconds} s"
        finally:
            if not ended_by_itself:
                end_group(process)
            process.stdout.close()
        return f"exit code {process.returncode}" if process.returncode else None


class StillOpen(Exception):
    """The command ended, but something it started still holds its output."""


def lines_of(process, deadline):
    """Yields the lines a process prints, until it closes its output."""
    pending, ended_at = b"", None
    while True:
        readable, _, _ = select.select([process.stdout], [], [], 0.5)
        now = time.monotonic()
        if readable:
            chunk = os.read(process.stdout.fileno(), 65536)
            *whole, pending = (pending + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
            if not chunk:
                if pending:
                    yield pending.decode(errors="replace")
                process.wait(timeout=max(0.1, deadline - now))
                return
        elif process.poll() is not None:
            ended_at = ended_at or now
            if now - ended_at > 10:
                raise StillOpen("it ended, but a process it started still holds its output")
        if now > deadline:
            raise TimeoutError


class Tally:
    """Adds up what libtest says, and notices a test binary that ended without saying anything."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.started = self.reported = 0
        self.failed_tests = []

    def read(self, line):
        if STARTED.match(line):
            self.started += 1
        named = FAILED_TEST.match(line)
        if named:
            self.failed_tests.append(named.group(1))
        if SKIPPED.match(line):
            # libtest knows only "passed" for a test that found its input missing.
            self.passed -= 1
            self.skipped += 1
        for passed, failed, ignored, filtered in RESULT.findall(line):
            self.reported += 1
            self.passed += int(passed)
            self.failed += int(failed)
            self.skipped += int(ignored) + int(filtered)

    def fault(self):
        if self.reported < self.started:
            return f"{self.started - self.reported} test binaries ended without a result"
        if self.failed:
            return f"{self.failed} tests failed"
        if self.passed == 0:
            return "no test ran"
        return None


def end_group(process):
    """Ends what is left of a step and of all it started in its process group: politely, then not."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, wanted)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
