"""Kernels compiled for GPUs that aren't there, and what the machine code has in it.

Triton brings ptxas and nvdisasm, and LLVM for AMD. Where its interpreter is on, as in the tests,
`triton.jit` makes no kernels that compile: a child process, this file as a program, does it for a
whole table of cases, by JSON.
"""

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WARP = {"sm": 32, "gfx": 64}


@dataclass(frozen=True)
class Case:
    """A kernel, how it is specialised, and the GPU that it is compiled for.

    kernel: "module:name".
    signature: Triton's types of the arguments that the compiler doesn't know, by name.
    constants: the values of those that it knows; None for a pointer that isn't given.
    elements: how many a program takes; what is counted is told for one of them.
    divisible: the arguments that are multiples of 16, beside pointers, which all are.
    """

    kernel: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    elements: int
    warps: int = 4
    gpu: str = "sm_90"
    divisible: tuple[str, ...] = ("n",)


@dataclass(frozen=True)
class Report:
    """What is in the code of a kernel; all but the last are counts.

    instructions, special: of a thread, for an element: all, and those of the special function unit.
    loaded, stored: bytes of global memory, for an element, as if each thread did each of them; so a
        sum that one thread writes counts as one a thread.
    float64, spills: instructions on float64; registers moved to local memory, or its instructions.
    flushing: operations that take a subnormal number for 0.
    text: the PTX, or AMD's assembly.
    """

    instructions: float
    special: float
    loaded: float
    stored: float
    float64: int
    spills: int
    flushing: int
    text: str = field(repr=False)


def reports(cases: Mapping[str, Case], folder: Path, cache: Path) -> dict[str, Report]:
    """The report of each case, by its name.

    folder: where the workers of a test session find what one of them has had compiled.
    cache: where Triton keeps its code; its key is the source, so it is never stale.
    """
    from filelock import FileLock  # torch needs it, so it is there

    table = json.dumps({name: asdict(case) for name, case in cases.items()})
    found = folder / f"offline-{hashlib.sha256(table.encode()).hexdigest()[:16]}.json"
    with FileLock(f"{found}.lock"):
        if not found.exists():
            found.write_text(_child(table, cache), encoding="utf-8")
    answers = json.loads(found.read_text(encoding="utf-8"))
    return {name: Report(**answer) for name, answer in answers.items()}


def _child(table: str, cache: Path) -> str:
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, __file__],
        input=table,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"no kernel was compiled:\n{done.stderr}")
    return done.stdout


def disassembler() -> Path | None:
    """The nvdisasm of Triton's wheel."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    return tool if tool.exists() else None


def report(case: Case) -> Report:
    """Compile a case and count; not where Triton's interpreter is on."""
    binary = compiled(case)
    family = _family(case.gpu)
    if family == "sm":
        counts = _of_nvidia(_sass(binary.asm["cubin"]), binary.asm["ptx"])
    else:
        counts = _of_amd(binary.asm["amdgcn"])
    share = case.elements / (WARP[family] * case.warps)  # of a thread
    for name in ("instructions", "special", "loaded", "stored"):
        counts[name] /= share
    return Report(**counts)


def _family(gpu: str) -> str:
    """Whose GPU it is: "sm" for sm_90, "gfx" for gfx942."""
    return "sm" if gpu.startswith("sm_") else "gfx"


def compiled(case: Case) -> Any:
    """Triton's binary of a case."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_source

    module, _, name = case.kernel.partition(":")
    kernel = getattr(importlib.import_module(module), name)
    signature = {name: case.signature.get(name, "constexpr") for name in kernel.arg_names}
    divisible = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or name in case.divisible
    }
    source = ASTSource(kernel, signature, constexprs=dict(case.constants), attrs=divisible)
    family = _family(case.gpu)
    if family == "sm":
        target = GPUTarget("cuda", int(case.gpu.removeprefix("sm_")), WARP[family])
    else:
        target = GPUTarget("hip", case.gpu, WARP[family])
    return compile_source(source, target=target, options={"num_warps": case.warps})


def _sass(cubin: bytes) -> str:
    """The machine code of NVIDIA, as text."""
    tool = disassembler()
    assert tool, "this wheel of Triton has no nvdisasm"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        command = [str(tool), "-c", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _of_nvidia(sass: str, ptx: str) -> dict[str, Any]:
    found = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", sass, re.MULTILINE)
    opcodes = [opcode for opcode in found if opcode != "NOP"]  # the end is padded with them
    names = [opcode.partition(".")[0] for opcode in opcodes]
    return {
        "instructions": len(opcodes),
        "special": names.count("MUFU"),
        "loaded": sum(_bytes(opcode) for opcode in opcodes if opcode.startswith("LDG")),
        "stored": sum(_bytes(opcode) for opcode in opcodes if opcode.startswith("STG")),
        # MUFU.RCP64H and F2F.F32.F64 among them
        "float64": sum(bool(re.match(r"D[A-Z]+|.*64H|.*F64", opcode)) for opcode in opcodes),
        "spills": sum(name in ("LDL", "STL") for name in names),
        "flushing": len(re.findall(r"\.ftz\b", ptx)),
        "text": ptx,
    }


def _bytes(opcode: str) -> int:
    """What a load or store moves: LDG.E.128 16 bytes, LDG.E 4, LDG.E.U16 2."""
    found = re.search(r"\.[US]?(8|16|64|128|256)\b", opcode)
    return int(found.group(1)) // 8 if found else 4


# By a pointer of 64 bits, or by 32 bits beside one that all threads share.
_AMD_LOADS = ("global_load", "buffer_load")


def _of_amd(assembly: str) -> dict[str, Any]:
    opcodes = re.findall(
        r"^\t([vs]_\w+|(?:global|flat|buffer|ds|scratch)_\w+)", assembly, re.MULTILINE
    )
    opcodes = [opcode for opcode in opcodes if opcode not in ("s_nop", "s_waitcnt", "s_code_end")]
    spills = re.findall(r"\.[sv]gpr_spill_count: +(\d+)", assembly)
    (subnormals,) = re.findall(r"\.amdhsa_float_denorm_mode_32 (\d)", assembly)
    special = re.compile(r"v_(exp|log|rcp|rsq|sqrt)_")
    return {
        "instructions": len(opcodes),
        "special": sum(bool(special.match(opcode)) for opcode in opcodes),
        "loaded": sum(_amd_bytes(o) for o in opcodes if o.startswith(_AMD_LOADS)),
        "stored": sum(_amd_bytes(o) for o in opcodes if o.startswith("global_store")),
        "float64": sum("_f64" in opcode for opcode in opcodes),
        "spills": sum(map(int, spills)),
        "flushing": int(subnormals != "3"),  # the mode of the whole kernel: 3 keeps them
        "text": assembly,
    }


def _amd_bytes(opcode: str) -> int:
    """What a load or store moves: global_load_dwordx4 16 bytes, global_load_ushort 2."""
    if "dword" in opcode:
        return 4 * int(opcode.partition("dwordx")[2][:1] or 1)
    return 2 if "short" in opcode else 1


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    answers = {name: asdict(report(Case(**fields))) for name, fields in given.items()}
    json.dump(answers, sys.stdout)
