"""Run by test_serving.py in a composed project: the fast and the exact way to read CSV agree."""

import random
import sys

sys.path.insert(0, "src")

import inference
import pandas as pd
import serving

NUMBERS = [
    "0",
    "1",
    "-1",
    "+1",
    "1.5",
    ".5",
    "5.",
    "1e3",
    "1E-3",
    "1e400",
    "-1e400",
    "1_0",
    "0x10",
    "1e",
    "--1",
]
NUMBERS += [
    "nan",
    "NaN",
    "nan(1)",
    "inf",
    "-inf",
    "Infinity",
    "infinity",
    "NULL",
    "None",
    "null",
    "N/A",
    "true",
]
NUMBERS += [
    "1" * 400,
    "0." + "1" * 400,
    "9007199254740993",
    "1e-400",
    "1,5",
    "1;5",
    "١",
    "1\u00a0",
    "1\t",
    " 1",
    "1 ",
]
NUMBERS += [
    "",
    "",
    " ",
    "\x00",
    "1\x00",
    "\u2003",
    "1.0f",
    "1d",
    "1L",
    "#1",
    "'1'",
    '"1"',
    '"1',
    '1"',
    '""',
    "2.5 ",
    "-0",
]
TEXTS = [
    "radio",
    "a b",
    " a",
    "a ",
    "",
    " ",
    "nan",
    "None",
    "null",
    "NULL",
    "NA",
    "é",
    "日本",
    "\u00a0x",
    "x\u2003",
]
TEXTS += [
    "\ufeffx",
    '"q"',
    '"a,b"',
    '"a\nb"',
    'a"b',
    '""',
    "'",
    "\\",
    "a\\,b",
    "\x1c",
    "x\x85",
    "\x0b",
    "x\x7f",
    "#",
    "\t",
]
TEXTS += ["\udcff", "x" * 5000, "🎉", "a\rb", "\r", "0", "1.5", "true", "-", ";", "a;b", "|", "a|b", "c"]
TWO = pd.__version__.startswith("2.")  # the image's; pandas 3 names a column of nothing in two ways
ENDS = ["\n", "\n", "\n", "\r\n", "\r", "\n\n", "\n \n", ""]


def model_of(kinds):
    features = [{"name": f"f{place}", "kind": kind} for place, kind in enumerate(kinds)]
    return inference.Model(None, {"features": features})


def outcome(body, model, fast):
    """The table, or the words of the refusal."""
    try:
        if fast:
            frame = inference.read_csv(body, model)
            return None if frame is None else ("table", frame)
        return "table", inference.to_frame(serving.read_rows(serving.CSV, body, model.features), model)
    except inference.BadRequest as error:
        return "refused", str(error)


def main() -> None:
    """Exit 1 at the first input on which the two differ; tell how often the fast way answered."""
    luck = random.Random(int(sys.argv[1]))
    answered = 0
    for _ in range(int(sys.argv[2])):
        kinds = luck.choices(["number", "category"], k=luck.randint(1, 4))
        model = model_of(kinds)
        odd = luck.choice([0, 0, 0.02, 0.3])
        lines = []
        for _ in range(luck.randint(0, 12)):
            values = [
                luck.choice(NUMBERS if kind == "number" else TEXTS)
                if luck.random() < odd
                else luck.choice(["1", "2.25", "-3e2", ""] if kind == "number" else ["radio", "a b", "b", ""])
                for kind in kinds
            ]
            if luck.random() < odd / 4:
                luck.choice([values.pop, lambda v=values: v.append("x")])()
            lines.append(",".join(values) + ("\n" if luck.random() > odd else luck.choice(ENDS)))
        if luck.random() < 0.05:
            lines.insert(0, ",".join(model.features) + "\n")
        body = "".join(lines).encode("utf-8", "surrogateescape")
        quick = outcome(body, model, True)
        if quick is None:
            continue
        answered += 1
        exact = outcome(body, model, False)
        if quick[0] != exact[0]:
            sys.exit(f"{body!r} {kinds}: fast {quick}, exact {exact}")
        pd.testing.assert_frame_equal(quick[1], exact[1], check_exact=True, check_dtype=TWO, obj=repr(body))
        for name in quick[1]:
            assert [type(one) for one in quick[1][name]] == [type(one) for one in exact[1][name]], body
    print(answered)


if __name__ == "__main__":
    main()
