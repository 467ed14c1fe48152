"""Which wording of the request draws finished, right and readable answers? The tables of NOTES.md come from here.

    python experiments/prompts.py CKPT [--rows 100] [--data DIR]            the request for the final answer
    python experiments/prompts.py CKPT --paraphrase [--rows 50]             the request for a paraphrase of gold

Training rows only; test rows are never looked at to choose a prompt.
"""
import argparse
import collections
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import s3ft  # noqa: E402, first of all: it sets torch's environment
import judges  # noqa: E402
import model as llama  # noqa: E402
import sampler  # noqa: E402
import torch  # noqa: E402
from data import gsm8k  # noqa: E402

ANSWER = {
    "nothing": "{question}",
    "sentence": "{question}\n\nThink step by step. End with one sentence: \"The answer is\" followed by the number.",
    "sentence, short": "{question}\n\nFinish with \"The answer is [number].\"",
    "boxed": "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
    "marker": "{question}\n\nThink step by step. End with a last line of the form: #### number",
    "answer line": "{question}\n\nSolve the problem step by step. Then write the final number on a last line that starts with \"Answer:\".",
    "steps, then sentence": ("Solve this problem step by step and show each calculation.\n\n{question}\n\n"
                             "After the last step, write \"The answer is\" and the final number."),
    "explain first": gsm8k.PROMPT,
    "example": ("Question: A box holds 4 red pens and twice as many blue pens. How many pens are in 3 boxes?\n"
                "Answer: A box has 4 * 2 = 8 blue pens. So a box has 4 + 8 = 12 pens. Three boxes have 3 * 12 = 36 pens. "
                "The answer is 36.\n\nQuestion: {question}\nAnswer:"),
}
PARAPHRASE = {
    "own words": ("{prompt}\n\nHere is a correct solution:\n{gold}\n\nWrite this solution again in your own words, as you would have "
                  "answered yourself. Keep every step, every number and the final answer. Do not mention that a solution was given."),
    "guide": gsm8k.PARAPHRASE,
    "rewrite": ("Problem: {prompt}\n\nSolution: {gold}\n\nRewrite this solution in your own words. Keep all steps and numbers. Reply "
                "with the rewritten solution only."),
    "tutor": ("{prompt}\n\n(For you alone, the teacher's solution: {gold})\n\nNow explain the solution to a student in your own words, "
              "with every calculation."),
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("ckpt")
    p.add_argument("--rows", type=int, default=100)
    p.add_argument("--data", default=ROOT / "data" / "gsm8k")
    p.add_argument("--paraphrase", action="store_true")
    p.add_argument("--only", metavar="NAMES", help="semicolon-separated wordings (default: all)")
    p.add_argument("--texts", type=int, default=0, help="print so many responses of each wording")
    args = p.parse_args()
    model, tokenizer = llama.load(args.ckpt, getattr(torch, s3ft.default_dtype("cpu")))
    examples = gsm8k.load(args.data, "train")
    examples = random.Random(1).sample(examples, args.rows)
    ask = gsm8k.PROMPT.partition("{question}")[2]
    print("| wording | finished | right | " + ("with substance | words / gold's | numbers kept | copies |" if args.paraphrase else "mean tokens | most frequent reasons |"))
    for name, wording in (PARAPHRASE if args.paraphrase else ANSWER).items():
        if args.only and name not in args.only.split(";"):
            continue
        if args.paraphrase:
            prompts = [wording.format(prompt=e.prompt, gold=e.gold) for e in examples]
        else:
            prompts = [wording.format(question=e.prompt.removesuffix(ask)) for e in examples]
        responses = sampler.generate(model, tokenizer, [tokenizer.prompt_ids(t) for t in prompts], 256, progress=name)
        finished = sum(r.finish == "stop" for r in responses)
        verdicts = [judges.numeric(r.text, e) if r.finish == "stop" else judges.Verdict(False, "unfinished") for r, e in zip(responses, examples)]
        right, n = sum(v.correct for v in verdicts), len(examples)
        row = f"| {name} | {100 * finished / n:.0f} % | {100 * right / n:.0f} % | "
        if args.paraphrase:
            s = [judges.substance(r.text, e.gold) for r, v, e in zip(responses, verdicts, examples) if v.correct]
            kept = sum(x["numbers"] >= 0.5 and x["length"] >= 0.5 and not x["copy"] for x in s)
            mean = [sum(x[k] for x in s) / max(1, len(s)) for k in ("length", "numbers", "copy")]
            row += f"{100 * kept / n:.0f} % | {mean[0]:.2f} | {mean[1]:.2f} | {100 * mean[2]:.0f} % |"
        else:
            reasons = collections.Counter(v.reason.split(":")[0] for v in verdicts).most_common(4)
            row += f"{sum(len(r.ids) for r in responses) / n:.0f} | {', '.join(f'{r} {c}' for r, c in reasons)} |"
        print(row, flush=True)
        for r, v, e in list(zip(responses, verdicts, examples))[:args.texts]:
            print(f"    --- gold {e.check['answer']}, {v.reason}\n{r.text}\n", flush=True)


if __name__ == "__main__":
    main()
