#!/usr/bin/env python3
"""`dha-worker tasks` against transformers, question by question: the same prompts (worded and cut into tokens here once more,
after lm-evaluation-harness), the same checkpoint, log-likelihoods within 1e-3 and the same picks.

usage: tasks.py WORKER SHARED_DATA [QUESTIONS]     exit 77: no transformers, or no data
"""
import json
import os
import subprocess
import sys
import tempfile

try:
    import sentencepiece
    import torch
    from transformers import LlamaForCausalLM
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

TOLERANCE = 1e-3  # nats, of sums over up to 256 tokens in f32
FILES = {
    "arc-e": "arc-e/formated_eval_arc-e.jsonl",
    "arc-c": "arc-c/formated_eval_arc-c.jsonl",
    "openbookqa": "openbookqa/formated_eval-main_openbookqa.jsonl",
    "piqa": "piqa/formated_eval_piqa.jsonl",
    "siqa": "siqa/formated-dev.jsonl",
    "winogrande": "winogrande/formated_eval_winogrande.jsonl",
    "boolq": "boolq/formated_eval_boolq.jsonl",
}


def question(task, d):
    """-> [(context, choice)], gold, length-normalised too?"""
    if task in ("arc-e", "arc-c", "openbookqa"):
        q = d["input_question"]
        context = q if task == "openbookqa" else f"Question: {q}\nAnswer:"
        return [(context, o) for o in d["options"]], d["options"].index(d["answer"]), True
    if task == "piqa":
        sols = [d["sol1"], d["sol2"]]
        return [(f"Question: {d['goal']}\nAnswer:", s) for s in sols], sols.index(d["answer"]), True
    if task == "siqa":
        choices = [d["answerA"], d["answerB"], d["answerC"]]
        context = f"Q: {d['context']} {d['question']}\nA:"
        return [(context, c) for c in choices], choices.index(d["answer"]), False
    if task == "boolq":
        context = f"{d['passage']}\nQuestion: {d['question']}?\nAnswer:"
        return [(context, c) for c in ("no", "yes")], int(d["labelKey"] == "true"), False
    at = d["sentence"].index("_")
    rest = d["sentence"][at + 1 :].strip()
    options = [d["option1"], d["option2"]]
    return [(d["sentence"][:at] + o, rest) for o in options], options.index(d["answerKey"]), False


def encode_pair(sp, context, continuation):
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole, before = sp.encode(context + continuation), sp.encode(context)
    return before, whole[len(before) :]


def shots_of(task, rows, i, n):
    text = ""
    for k, d in enumerate(rows):
        if n == 0:
            break
        if k == i:
            continue
        choices, gold, _ = question(task, d)
        text += f"{choices[gold][0]} {choices[gold][1]}\n\n"
        n -= 1
    return text


def loglik(model, bos, context, continuation, positions):
    tokens = (bos + context + continuation)[-(positions + 1) :]
    n = min(len(continuation), len(tokens) - 1)
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]])).logits[0].float()
    logp = torch.log_softmax(logits, -1)[-n:]
    target = torch.tensor(tokens[-n:])
    return logp.gather(1, target[:, None]).sum().item(), bool((logp.argmax(-1) == target).all())


def argmax(x):
    return max(range(len(x)), key=lambda i: (x[i], -i))


def check(task, path, rows_ours, model, sp, count, shots, bos):
    rows = [json.loads(line) for line in open(path, encoding="utf-8") if line.strip()][: count + shots]
    worst, wrong = 0.0, 0
    for i, (d, ours) in enumerate(zip(rows[:count], rows_ours, strict=True)):
        choices, gold, norm = question(task, d)
        prefix = shots_of(task, rows, i, shots)
        sums, greedy = [], []
        for context, choice in choices:
            before, after = encode_pair(sp, prefix + context, " " + choice)
            s, g = loglik(model, [sp.bos_id()] if bos else [], before, after,
                          model.config.max_position_embeddings)
            sums.append(s)
            greedy.append(g)
        worst = max([worst] + [abs(a - b) for a, b in zip(sums, ours["loglik"], strict=True)])
        bad = ours["gold"] != gold or ours["question"] != i or ours["pick"] != argmax(sums)
        if norm:
            bad |= ours["pick_norm"] != argmax([s / max(len(c), 1) for s, (_, c) in zip(sums, choices)])
        if task != "winogrande":  # which exact match asks in other words
            bad |= ours["exact"] != greedy[gold]
        wrong += bad
    print(f"{task:<11} {len(rows_ours):4d} questions, {shots} shots, bos {int(bos)}: log-likelihoods differ "
          f"by at most {worst:.1e}, picks in {wrong}")
    return worst <= TOLERANCE and wrong == 0


def run(worker, hf, files, count, shots, bos, ranks, scratch):
    details = os.path.join(scratch, "details.jsonl")
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
    command += [worker, "tasks", hf, "--limit", str(count), "--shots", str(shots), "--details", details]
    command += ["--bos"] if bos else []
    for task, path in files.items():
        command += ["--task", f"{task}={path}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(details, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    return {t: [r for r in rows if r["task"] == t] for t in files}


def main():
    worker, shared = sys.argv[1], sys.argv[2]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    hf = os.path.join(shared, "rp4m/hf")
    files = {t: os.path.join(shared, "bench", p) for t, p in FILES.items()}
    if not os.path.exists(hf) or not all(map(os.path.exists, files.values())):
        print(f"skipped: no checkpoint and benchmark files in {shared}")
        return 77
    torch.set_num_threads(1)  # small matrices: a second thread mostly waits
    model = LlamaForCausalLM.from_pretrained(hf, dtype=torch.float32).eval()
    sp = sentencepiece.SentencePieceProcessor(model_file=os.path.join(hf, "tokenizer.model"))
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        ours = run(worker, hf, files, count, 0, False, 1, scratch)
        for task, path in files.items():
            good &= check(task, path, ours[task], model, sp, count, 0, False)
        few = max(1, count // 10)
        for shots, bos in ((2, False), (0, True)):
            ours = run(worker, hf, files, few, shots, bos, 1, scratch)
            for task, path in files.items():
                good &= check(task, path, ours[task], model, sp, few, shots, bos)
        one = run(worker, hf, files, few, 0, False, 1, scratch)
        two = run(worker, hf, files, few, 0, False, 2, scratch)
        same = one == two
        print(f"two ranks give {'the same' if same else 'OTHER'} scores")
    return 0 if good and same else 1


if __name__ == "__main__":
    sys.exit(main())
