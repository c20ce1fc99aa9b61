"""report/pages.py: the paper's numbers beside ours, and what they are worth."""

import csv
import io
import re

import numpy as np
from small import NAMES, TINY

from bplcz_ref import systems
from bplcz_ref.report import pages

RESULT = {
    "system": "ebcnn-bplcz", "data_simulated": True, "settings": TINY._asdict(), "split": "random split",
    "overall_accuracy": 0.5, "average_accuracy": 0.25, "macro_f1": 0.3, "kappa": 0.4, "samples": 20,
    "training_samples": 34, "test_samples": 20, "parameters": 1234, "training_seconds": 6.0,
    "last_epoch": {"epoch": 2, "L_con": 0.35, "L_con_floor": 0.31, "S_positive": -1.25, "S_negative": None},
}  # fmt: skip
REAL = RESULT | {"data_simulated": False}
PLAIN = RESULT | {"system": "ebcnn", "last_epoch": {"epoch": 2, "L_con": None}}


def seed(number, oa, result=RESULT):
    return result | {"settings": TINY._replace(seed=number)._asdict(), "overall_accuracy": oa}


def test_tables_have_the_mean_over_seeds_beside_the_paper():
    results = {"ebcnn-bplcz": [RESULT, RESULT | {"overall_accuracy": 0.52}]}
    page = pages.tables_markdown(results, paper_seconds=1.5 * 86400)
    row = "EB-CNN (BP-LCZ) | 86.69 | 85.40 | 51.00 ± 1.41 | 40.00 ± 0.00 | 30.00 ± 0.00 | 2 | 1,234 | 3.0"
    assert re.sub(" +", " ", page).count(f"\n| {row} |\n") == 2  # in Table II and in Table III
    assert "ours (SIMULATED) OA" in page
    assert "nothing about So2Sat.\n\nOurs: preset small" in page  # paragraphs of Markdown
    assert "random split. The paper's is a random split of training.h5." in page
    assert "only from the real 52 GB file" in page
    assert "python -m bplcz_ref tables --data training.h5 --preset paper --systems ebcnn-bplcz --seeds 1" in page
    assert "about 1.5 days here" in page
    assert pages.protocol({"settings": systems.PAPER._replace(seed=5)._asdict()}) == "preset paper"
    assert "SIMULATED" not in pages.tables_markdown({"ebcnn-bplcz": [REAL]}, 0.0)
    assert "## Table III" not in pages.tables_markdown({"resnet50": [RESULT]}, 0.0)


def test_a_network_below_its_published_size_is_called_reduced_everywhere():
    small = RESULT | {"system": "resnet50", "last_epoch": PLAIN["last_epoch"]}
    large = small | {"settings": systems.PAPER._asdict()}
    assert "\n| ResNet50, reduced " in pages.tables_markdown({"resnet50": [small]}, 0.0)
    assert "\n| resnet50, batch 2, reduced " in pages.variants_markdown({"resnet50, batch 2": [small]})
    assert '\n"resnet50, reduced",resnet50,47,' in pages.tables_csv({"resnet50": [small]})
    assert "reduced" not in pages.tables_markdown({"resnet50": [large], "ebcnn": [PLAIN]}, 0.0)


def test_csv_has_a_line_per_run(table):
    rows = list(csv.DictReader(io.StringIO(pages.tables_csv(table[1]))))
    assert [row["system"] for row in rows] == NAMES
    assert [row["seed"] for row in rows] == ["47", "47"]
    assert (float(rows[1]["paper_kappa"]), rows[1]["data_simulated"]) == (0.854, "true")
    assert float(rows[1]["kappa"]) == table[1]["ebcnn-bplcz"][0]["kappa"]
    (row,) = csv.DictReader(io.StringIO(pages.tables_csv({"ebcnn-bplcz, beta 1": [RESULT]})))
    assert (row["row"], row["system"], row["paper_kappa"]) == ("ebcnn-bplcz, beta 1", "ebcnn-bplcz", "")


def test_the_ablation_shows_how_far_L_con_is_above_its_floor():
    page = pages.ablation([PLAIN, RESULT], ["a", "b"])
    assert re.search(r"EB-CNN\s+79.29\s+77.39\s+50.00\s+40.00\s+30.00\s+6 s\s+1,234", page)
    assert re.search(r"EB-CNN \(BP-LCZ\)\s+0.3500\s+0.3100\s+0.0400\s+-1.2500\s+-\n", page)
    assert page.endswith("Run folders:\n  a\n  b")
    assert "SIMULATED data: these figures say nothing about So2Sat" in page
    assert "SIMULATED" not in pages.ablation([REAL], ["a"])
    assert "last epoch" not in pages.ablation([PLAIN], ["a"])
    without_floor = RESULT | {"last_epoch": RESULT["last_epoch"] | {"L_con_floor": None}}
    assert re.search(r"0.3500\s+-\s+-\s+-1.2500", pages.ablation([without_floor], ["a"]))


def test_a_difference_is_taken_seed_by_seed():
    """By hand: OA differs by 2, 4 and 3 points; t(0.975, 2) = 4.302653, s = 1: 3 +- 2.4841."""
    plain = [seed(47, 0.50, PLAIN), seed(48, 0.60, PLAIN), seed(49, 0.55, PLAIN)]
    prompted = [seed(49, 0.58), seed(47, 0.52), seed(48, 0.64)]  # another order
    page = pages.tables_markdown({"ebcnn": plain, "ebcnn-bplcz": prompted}, 0.0)
    assert re.search(r"EB-CNN \(BP-LCZ\) less EB-CNN \|\s+\+3.00 ± 1.00 \|\s+\+0.52 to \+5.48 \|", page)
    assert "An interval (Student's t over seeds) that holds 0 does not tell the two apart." in page
    assert "0.3100" in page
    page = pages.variants_markdown({"a, beta 1": plain, "a, beta 2": prompted})
    assert re.search(r"a, beta 2 less a, beta 1 \|\s+\+3.00 ± 1.00 \|\s+\+0.52 to \+5.48 \|", page)
    assert "From SIMULATED data" in page
    assert "The first row: preset small, but width 1, features 4" in page
    assert pages.paired(plain[:1], prompted[1:2])[:2] == ("+2.00", "one seed: none")
    assert pages.paired(plain[:1], prompted[:1])[:2] == ("undefined", "-")  # no seed that both have
    assert pages.paired(plain[:1], [prompted[1] | {"kappa": None}])[2:] == ("undefined", "-")


def test_classes_that_were_never_found_are_named():
    C = np.diag([8] * 17)
    assert "recall 0" not in pages.class_table(pages.evaluation(C))
    C[2], C[5], C[9] = np.roll(C[2], 1), 0, np.roll(C[9], 3)  # no sample of class 6 at all
    missed = "recall 0: none of the 8 samples of class 3, 8 samples of class 10 was recognised"
    assert missed in pages.class_table(pages.evaluation(C))


def test_the_note_on_short_runs():
    """0.9 of the running statistics is kept at each step: after 20, 12 % of their start."""
    short, long = (RESULT | {"settings": TINY._replace(epochs=n, batch=17)._asdict()} for n in (10, 50))
    assert "runs of 20 steps are so short" in pages.lagging([long, short])
    assert "(12 % of\ntheir start" in pages.variants_markdown({"a": [short]})
    assert pages.lagging([long]) == ""
