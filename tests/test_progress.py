"""progress.py: one line that is renewed on a terminal, few whole lines elsewhere."""

import io

from bplcz_ref.training.progress import ERASE, Reporter


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_step_is_written_over(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    report = Reporter(out)
    report.wait = 0.0
    report.step(lambda: "step 1")
    report.step(lambda: "step 2 " + 40 * "x")  # cut, as a line that is broken cannot be written over
    report.line("epoch 1")
    report.end()  # nothing is open any more
    assert out.getvalue() == f"{ERASE}step 1{ERASE}step 2 {12 * 'x'}{ERASE}epoch 1\n"


def test_in_a_pipe_steps_are_rare_whole_lines():
    out = io.StringIO()
    report = Reporter(out)
    report.step(lambda: "too soon")
    report.last -= report.wait
    report.step(lambda: "step 900")
    report.step(lambda: "too soon again")
    report.line("epoch 1")
    report.end()
    assert out.getvalue() == "step 900\nepoch 1\n"


def test_a_function_takes_the_lines_alone():
    said = []
    report = Reporter(Terminal(), said.append)
    report.wait = 0.0
    report.step(lambda: "no")
    report.line("epoch 1")
    assert said == ["epoch 1"]
