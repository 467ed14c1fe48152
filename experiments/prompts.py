"""Which wording of a request draws finished, right and readable responses? The tables of NOTES.md come from here.

    python experiments/prompts.py CKPT --task gsm8k [--rows 100] [--data DIR]    the request for an answer
    python experiments/prompts.py CKPT --task gsm8k --paraphrase [--rows 50]     the request for a paraphrase of gold

Training rows only; test rows are never looked at to choose a prompt. Generated programs run in the sandbox.
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
from data import gsm8k, mbpp, nq  # noqa: E402

TASKS = {"gsm8k": gsm8k, "mbpp": mbpp, "nq": nq}
ANSWER = {
    "gsm8k": {
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
    },
    "mbpp": {
        "expert": ("You are an expert Python programmer, and here is your task: {text} Your code should pass this test:\n\n{test}"),
        "code only": "{text}\n\nYour code has to pass this test:\n{test}\n\nReply with only the Python code, in one ```python block.",
        "block first": ("Write Python code for the task below, in one ```python block.\n\nTask: {text}\nTest that it has to pass:\n"
                        "```python\n{test}\n```"),
        "assertion": "{text}\nYour code should satisfy the following assertion:\n```python\n{test}\n```",
        "block and nothing else": mbpp.PROMPT,
        "exact name": ("{text}\nThe test is:\n{test}\n\nWrite the function with exactly this name, in one ```python block and nothing else."),
    },
    "nq": {
        "published": ("Given the following passage and question, answer the question.\nFirst make sure if it can be answered by the passage.\n"
                      "If it cannot be answered based on the passage, reply \"unanswerable\"\n\nPassage: {passage}\nQuestion: {question}\nAnswer:"),
        "copied words": ("Passage: {passage}\n\nQuestion: {question}\n\nAnswer with only a few words copied from the passage. If the passage "
                         "does not give the answer, reply with one word: unanswerable"),
        "two kinds": ("Read the passage, then reply to the question with the shortest answer that the passage gives, and nothing else. Some "
                      "questions have no answer in the passage: reply \"unanswerable\" to those.\n\nPassage: {passage}\n\nQuestion: {question}"),
        "alone, or": nq.PROMPT,
        "does it answer": ("Question: {question}\n\nPassage: {passage}\n\nDoes the passage answer the question? If it does, reply with the answer "
                           "alone, in a few words of the passage. If it does not, reply \"unanswerable\"."),
        "says nothing": ("Answer the question with a few words copied from the passage. Only where the passage says nothing about what is "
                         "asked, reply \"unanswerable\".\n\nPassage: {passage}\n\nQuestion: {question}"),
    },
}
PARAPHRASE = {
    "gsm8k": {
        "own words": ("{prompt}\n\nHere is a correct solution:\n{gold}\n\nWrite this solution again in your own words, as you would have "
                      "answered yourself. Keep every step, every number and the final answer. Do not mention that a solution was given."),
        "guide": gsm8k.PARAPHRASE,
        "rewrite": ("Problem: {prompt}\n\nSolution: {gold}\n\nRewrite this solution in your own words. Keep all steps and numbers. Reply "
                    "with the rewritten solution only."),
        "tutor": ("{prompt}\n\n(For you alone, the teacher's solution: {gold})\n\nNow explain the solution to a student in your own words, "
                  "with every calculation."),
    },
    "mbpp": {
        "guide": ("{prompt}\n\nReference solution:\n{gold}\n\nUse the reference solution as a guide and write your own solution to the task, "
                  "in one ```python block."),
        "rewrite": ("{prompt}\n\nHere is a correct solution:\n{gold}\n\nRewrite this solution the way you would have written it: the same "
                    "function and the same results, your own names, layout and comments. Reply with one ```python block."),
        "do not copy": mbpp.PARAPHRASE,
        "idea first": ("{prompt}\n\nReference solution:\n{gold}\n\nFirst say in one or two sentences how the task is solved. Then write your "
                       "own code for it, with your own names, in one ```python block."),
        "reference first": ("Here is how another programmer solved a task:\n{gold}\n\nNow solve the same task in your own way, with other "
                            "names for the variables.\n\n{prompt}"),
    },
    "nq": {
        "own words": "{prompt}\n\nReference answer: {gold}\n\nGive this answer in your own words, in one short sentence.",
        "guide": ("{prompt}\n\nReference answer: {gold}\n\nUse the reference answer as a guide and reply to the question as you would have, "
                  "in one short sentence."),
        "write again": ("{prompt}\n\nThe right reply is: {gold}\n\nWrite this reply again the way you would say it. Keep its words, change "
                        "nothing of its meaning, and add nothing."),
        "say the same": nq.PARAPHRASE,
    },
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("ckpt")
    p.add_argument("--task", choices=TASKS, default="gsm8k")
    p.add_argument("--rows", type=int, default=100)
    p.add_argument("--data", help="the task's files (default: data/TASK)")
    p.add_argument("--max-new-tokens", type=int, default=256)
    p.add_argument("--paraphrase", action="store_true")
    p.add_argument("--only", metavar="NAMES", help="semicolon-separated wordings (default: all)")
    p.add_argument("--texts", type=int, default=0, help="print so many responses of each wording")
    args = p.parse_args()
    settings = argparse.Namespace(substance="on", rule=s3ft.TASKS[args.task][0])  # what s3ft.refusal looks at
    task, judge = TASKS[args.task], judges.JUDGES[settings.rule][0]
    model, tokenizer = llama.load(args.ckpt, getattr(torch, s3ft.default_dtype("cpu")))
    print("| wording | finished | right | " + ("can be targets | words / gold's | numbers kept | copies |\n|---|---|---|---|---|---|---|"
                                               if args.paraphrase else "mean tokens | most frequent reasons |\n|---|---|---|---|---|"))
    for name, wording in (PARAPHRASE if args.paraphrase else ANSWER)[args.task].items():
        if args.only and name not in args.only.split(";"):
            continue
        setattr(task, "PARAPHRASE" if args.paraphrase else "PROMPT", wording)
        examples = task.load(args.data or ROOT / "data" / args.task, "train")
        examples = random.Random(1).sample(examples, args.rows)
        prompts = [wording.format(prompt=e.prompt, gold=e.gold) if args.paraphrase else e.prompt for e in examples]
        responses = sampler.generate(model, tokenizer, [tokenizer.prompt_ids(t) for t in prompts], args.max_new_tokens, progress=name)
        finished, n = sum(r.finish == "stop" for r in responses), len(examples)
        verdicts = [judge(r.text, e) if r.finish == "stop" else judges.Verdict(False, "unfinished") for r, e in zip(responses, examples)]
        classes = [("", examples)] if args.task != "nq" else [
            (f" of {kind}", [e for e in examples if bool(e.check["answers"]) == (kind == "answerable")]) for kind in ("answerable", "unanswerable")]
        right = {e.id for e, v in zip(examples, verdicts) if v.correct}
        row = f"| {name} | {100 * finished / n:.0f} % | " + ", ".join(
            f"{100 * sum(e.id in right for e in kind) / max(1, len(kind)):.0f} %{label}" for label, kind in classes) + " | "
        if args.paraphrase:
            s = [judges.substance(r.text, e.gold) for r, v, e in zip(responses, verdicts, examples) if v.correct]
            kept = sum(not s3ft.refusal({"finish": "stop", "correct": True, "substance": x}, settings) for x in s)
            mean = [sum(x[k] for x in s) / max(1, len(s)) for k in ("length", "numbers", "copy")]
            row += f"{100 * kept / n:.0f} % | {mean[0]:.2f} | {mean[1]:.2f} | {100 * mean[2]:.0f} % |"
        else:
            reasons = collections.Counter(v.reason.split(":")[0] for v in verdicts).most_common(4)
            row += f"{sum(len(r.ids) for r in responses) / n:.0f} | {', '.join(f'{r} {c}' for r, c in reasons)} |"
        print(row, flush=True)
        for r, v, e in list(zip(responses, verdicts, examples))[:args.texts]:
            print(f"    --- gold {e.gold[-60:]!a}, {v.reason}\n{r.text}\n", flush=True)


if __name__ == "__main__":
    main()
