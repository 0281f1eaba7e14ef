"""An interpreter of the PTX that Triton writes, on all threads at once: what a GPU would compute.

It shows what Triton's own interpreter can't, which runs the source: which products the compiler
contracted, where it flushes subnormal numbers, and what the special function unit's error does to a
result. That unit is taken as exact, or as off by the bound that NVIDIA documents. Memory is
followed to the byte: a load or store outside of its tensor is an error.

Known are the instructions of kernels that work in float32, without shared memory: one warp a block.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
Mask = Array | None  # None: all threads

WARP = 32

# Bounds of the relative errors, from NVIDIA's documentation of PTX; of div.full, 2 ULP.
UNIT = {
    "ex2": 2.0**-22,
    "lg2": 2.0**-22,
    "rcp": 2.0**-23,
    "rsqrt": 2.0**-22.4,
    "sqrt": 2.0**-23,
    "div": 2.0**-22,
}

# On numbers of float64. Those of float32 have a product that float64 holds: an fma is off by
# 2 ** -30 of an ULP beside a single rounding.
ARITHMETIC: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "add": np.add,
    "div": np.divide,
    "ex2": np.exp2,
    "fma": lambda x, y, z: x * y + z,
    "lg2": np.log2,
    "max": np.fmax,
    "min": np.fmin,
    "mul": np.multiply,
    "neg": np.negative,
    "rcp": np.reciprocal,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt,
    "sub": np.subtract,
}
# All bits but the sign are set in the NaN that an operation of float32 has for a result.
NAN = np.array([0x7FFFFFFF], np.uint32).view(np.float32)

NAN_WINS = {"max": np.maximum, "min": np.minimum}

INTEGERS: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "add": np.add,
    "and": np.bitwise_and,
    "div": lambda x, y: np.trunc(x / y).astype(x.dtype),
    "mad": lambda x, y, z: x * y + z,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "rem": np.fmod,
    "sub": np.subtract,
    "xor": np.bitwise_xor,
}

COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "ne": lambda x, y: (x < y) | (x > y),
    # Of unsigned integers, or true of NaN.
    "hi": np.greater,
    "hs": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "equ": lambda x, y: ~((x < y) | (x > y)),
    "geu": lambda x, y: ~(x < y),
    "gtu": lambda x, y: ~(x <= y),
    "leu": lambda x, y: ~(x > y),
    "ltu": lambda x, y: ~(x >= y),
    "neu": np.not_equal,
    "nan": lambda x, y: np.isnan(x) | np.isnan(y),
    "num": lambda x, y: ~(np.isnan(x) | np.isnan(y)),
}

TO_WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@dataclass(frozen=True)
class Statement:
    """An instruction: `@guard operation.modifiers operands`, of which the first is the result."""

    text: str
    operation: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str = ""
    is_negated: bool = False


@dataclass(frozen=True)
class Program:
    """A kernel: its statements, where its labels stand, and the types of its parameters."""

    statements: tuple[Statement, ...]
    labels: dict[str, int]
    parameters: tuple[str, ...]
    threads: int


def parse(ptx: str) -> Program:
    """The only kernel of a module of PTX."""
    head, _, rest = ptx[ptx.index(".entry") :].partition("\n{")
    body = re.sub(r"//.*", "", rest[: rest.index("\n}")])
    statements: list[Statement] = []
    labels: dict[str, int] = {}
    for line in body.splitlines():
        words = line.strip()
        if words.startswith((".", "{", "}")):  # declarations, source lines, scopes
            continue
        found = re.match(r"(\$\w+):", words)
        if found:
            labels[found.group(1)] = len(statements)
            words = words[found.end() :]
        statements += [_statement(part.strip()) for part in words.split(";") if part.strip()]
    parameters = re.findall(r"\.param \.(\w+) ", head)
    threads = re.search(r"\.(?:reqntid|maxntid) (\d+)", head)
    assert threads, "a kernel of Triton says how many threads it has"
    return Program(tuple(statements), labels, tuple(parameters), int(threads.group(1)))


def _statement(text: str) -> Statement:
    found = re.match(r"(?:@(!?)(%p\d+)\s+)?([\w.]+)\s*(.*)", text, re.DOTALL)
    assert found, text
    negated, guard, opcode, rest = found.groups()
    operation, *modifiers = opcode.split(".")
    # Commas part the operands, but for those of a vector in braces.
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
    return Statement(text, operation, tuple(modifiers), tuple(operands), guard or "", bool(negated))


def width(kind: str) -> int:
    """Bits of a type such as b32."""
    return 1 if kind == "pred" else int(kind.lstrip("busf"))


def numpy_type(kind: str) -> Any:
    """numpy's type for one of PTX's; bf16, which numpy lacks, is held in 16 bits."""
    if kind == "pred":
        return np.bool_
    letter = {"f": "f", "s": "i"}.get(kind[0], "u")
    return np.dtype(f"{letter}{width(kind) // 8}")


def decoded(bits: Array, kind: str) -> Array:
    """The numbers that bits stand for."""
    if kind == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(numpy_type(kind))


def encoded(numbers: Array, kind: str) -> Array:
    """The bits of numbers, rounded to nearest even where the type holds fewer digits."""
    if kind == "pred":
        return np.asarray(numbers, np.bool_)
    bits = np.dtype(f"u{width(kind) // 8}")
    if kind == "bf16":
        # float32 first, as the hardware has it: the numbers come from there.
        wide = np.atleast_1d(np.asarray(numbers, np.float32)).view(np.uint32).astype(np.uint64)
        nearest = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
        is_nan = np.isnan(np.atleast_1d(numbers))
        return np.where(is_nan, 0x7FFF, nearest).astype(bits)
    return np.atleast_1d(np.asarray(numbers).astype(numpy_type(kind))).view(bits)


def flushed(x: Array) -> Array:
    """0 of the same sign for each subnormal number of float32."""
    return np.where(np.abs(x) < 2.0**-126, np.copysign(0.0, x), x)


class Memory:
    """Tensors, each at an address of its own, far from all others."""

    _APART = 40

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._held = [
            tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
            for tensor in tensors
        ]

    def address(self, index: int) -> int:
        """Where a tensor begins."""
        return (index + 1) << self._APART

    def cells(self, addresses: Array, bits: int) -> tuple[Array, Array]:
        """The tensor that all addresses lie in, in cells of so many bits, and which they are."""
        (index,) = np.unique(addresses >> np.uint64(self._APART))
        size = np.uint64(bits // 8)
        offset = addresses - (index << np.uint64(self._APART))
        held = self._held[int(index) - 1]
        if (offset + size > len(held)).any() or (offset % size).any():
            raise IndexError(f"bytes {offset.min()} to {offset.max()} of {len(held)}")
        return held.view(f"u{bits // 8}"), offset // size


class Machine:
    """Registers of all threads, which take each statement together.

    Threads that branch away wait at their label until the others come by.
    """

    def __init__(
        self, program: Program, arguments: Sequence[Any], programs: int, off: float, seed: int
    ) -> None:
        self.program = program
        self.memory = Memory([a for a in arguments if isinstance(a, torch.Tensor)])
        self.off = off
        self.generator = np.random.default_rng(seed)
        self.count = programs * program.threads
        thread = np.arange(self.count, dtype=np.uint32)
        self.special = {
            "%tid.x": thread % np.uint32(program.threads),
            "%ctaid.x": thread // np.uint32(program.threads),
            "%nctaid.x": np.full(self.count, programs, np.uint32),
        }
        zeros = np.zeros(self.count, np.uint32)
        self.special |= {f"%{name}.{axis}": zeros for name in ("tid", "ctaid") for axis in "yz"}
        self.registers: dict[str, Array] = {}
        pointers = iter(range(len(arguments)))
        numbers = [
            self.memory.address(next(pointers)) if isinstance(a, torch.Tensor) else a
            for a in arguments
        ]
        # After those of the source come two pointers to Triton's scratch memory, which isn't used.
        missing = len(program.parameters) - len(numbers)
        if missing not in (0, 2):
            raise TypeError(f"{len(numbers)} arguments of {len(program.parameters)}")
        numbers += [0] * missing
        self.parameters = [
            encoded(np.array(number), kind)
            for number, kind in zip(numbers, program.parameters, strict=True)
        ]

    def run(self) -> None:
        """Execute the statements, always the earliest that threads wait at."""
        waiting: dict[int, Mask] = {0: None}
        with np.errstate(all="ignore"):
            while waiting:
                at = min(waiting)
                threads = waiting.pop(at)
                for place, those in self._after(at, threads):
                    if place in waiting:
                        others = waiting[place]
                        assert those is not None
                        assert others is not None
                        those = those | others  # noqa: PLW2901 - the threads meet again
                        those = None if those.all() else those  # noqa: PLW2901
                    waiting[place] = those

    def _after(self, at: int, threads: Mask) -> list[tuple[int, Mask]]:
        """Execute a statement for some threads: where they stand afterwards."""
        statement = self.program.statements[at]
        if statement.guard:
            guard = self.registers[statement.guard] ^ statement.is_negated
            doing: Mask = guard if threads is None else guard & threads
        else:
            doing = threads
        if statement.operation == "ret":
            going = [(at + 1, _without(threads, doing))]
        elif statement.operation == "bra":
            label = self.program.labels[statement.operands[-1]]
            going = [(label, doing), (at + 1, _without(threads, doing))]
        else:
            if doing is None or doing.any():
                self._execute(statement, doing)
            going = [(at + 1, threads)]
        return [(place, those) for place, those in going if those is None or those.any()]

    def _execute(self, statement: Statement, threads: Mask) -> None:
        operation, modifiers = statement.operation, statement.modifiers
        if operation in ("ld", "st"):
            self._memory(statement, threads)
            return
        if operation in ("bar", "barrier", "griddepcontrol", "membar", "fence"):
            return
        method = getattr(self, f"_{operation}", None)
        kind = modifiers[-1]
        if method:
            method(statement, threads)
        elif "rz" in modifiers or "rm" in modifiers or "rp" in modifiers:
            raise NotImplementedError(statement.text)
        elif kind in ("f16", "bf16", "f32", "f64"):
            self._float(statement, threads)
        elif kind != "pred" and width(kind) in (16, 32, 64) and operation in INTEGERS:
            self._integer(statement, threads)
        elif operation in ("and", "or", "xor", "not"):
            numbers = [self.get(name, "pred") for name in statement.operands[1:]]
            self.put(statement.operands[0], INTEGERS[operation](*numbers), "pred", threads)
        else:
            raise NotImplementedError(statement.text)

    def get(self, name: str, kind: str) -> Array:
        """An operand, register or constant, as numbers of a type."""
        if name in self.special:
            return decoded(self.special[name], kind)
        if name.startswith("%"):
            bits = self.registers[name]
            if bits.dtype != np.bool_ and 8 * bits.itemsize != width(kind):
                raise TypeError(f"{name} holds {8 * bits.itemsize} bits, not a {kind}")
            return decoded(bits, kind)
        if name.startswith(("0f", "0d")):
            constant = np.array([int(name[2:], 16)], f"u{len(name) // 2 - 1}")
            return decoded(constant, {"f": "f32", "d": "f64"}[name[1]] if kind[0] == "f" else kind)
        if kind == "pred":
            return np.array([name not in ("0", "false")])
        modulus = 1 << width(kind)
        return decoded(np.array([int(name, 0) % modulus], f"u{width(kind) // 8}"), kind)

    def put(self, name: str, numbers: Array, kind: str, threads: Mask) -> None:
        """Set a register, of the threads that do this."""
        bits = np.broadcast_to(encoded(numbers, kind), (self.count,))
        if threads is not None and name in self.registers:
            bits = np.where(threads, bits, self.registers[name])
        self.registers[name] = bits

    def _special_unit(self, operation: str, result: Array) -> Array:
        """The result of the special function unit, off by a share of its bound, up or down."""
        if not self.off:
            return result
        sign = self.generator.choice([-1.0, 1.0], np.shape(result))
        return result * (1 + self.off * UNIT[operation] * sign)

    def _float(self, statement: Statement, threads: Mask) -> None:
        operation, modifiers, kind = (
            statement.operation,
            statement.modifiers,
            statement.modifiers[-1],
        )
        numbers = [self.get(name, kind).astype(np.float64) for name in statement.operands[1:]]
        if "ftz" in modifiers:
            numbers = [flushed(x) for x in numbers]
        function = ARITHMETIC[operation]
        if "NaN" in modifiers:
            function = NAN_WINS[operation]
        result = function(*numbers)
        if operation in ("ex2", "lg2", "rsqrt") or {"approx", "full"} & set(modifiers):
            result = self._special_unit(operation, result)
        if kind == "f32":
            result = np.where(np.isnan(result), NAN, result.astype(np.float32))
        self.put(
            statement.operands[0], flushed(result) if "ftz" in modifiers else result, kind, threads
        )

    def _integer(self, statement: Statement, threads: Mask) -> None:
        operation, modifiers, kind = (
            statement.operation,
            statement.modifiers,
            statement.modifiers[-1],
        )
        x, *others = statement.operands[1:]
        if "hi" in modifiers:  # the upper half of a product, which Python's integers hold
            if operation != "mul":
                raise NotImplementedError(statement.text)
            x, y = (self.get(name, kind).astype(object) for name in (x, *others))
            upper = np.asarray((x * y) >> width(kind)).astype(numpy_type(kind))
            self.put(statement.operands[0], upper, kind, threads)
            return
        if "wide" in modifiers:  # factors of half as many bits as the result, and as what is added
            y, *others = others
            wide = f"{kind[0]}{2 * width(kind)}"
            factors = [self.get(name, kind).astype(numpy_type(wide)) for name in (x, y)]
            numbers, kind = factors + [self.get(name, wide) for name in others], wide
        else:
            numbers = [self.get(name, kind) for name in (x, *others)]
        self.put(statement.operands[0], INTEGERS[operation](*numbers), kind, threads)

    def _shift(self, statement: Statement, threads: Mask, to_left: bool) -> None:
        kind = statement.modifiers[-1]
        number = self.get(statement.operands[1], kind)
        places = self.get(statement.operands[2], "u32")
        # PTX takes more places than there are for all of them: 0, or the sign.
        most = width(kind) - 1
        within = np.minimum(places, most).astype(number.dtype)
        if to_left:
            result = np.where(places > most, 0, number << within)
        else:
            rest = number >> within
            result = rest if kind[0] == "s" else np.where(places > most, 0, rest)
        self.put(statement.operands[0], result.astype(number.dtype), kind, threads)

    def _shl(self, statement: Statement, threads: Mask) -> None:
        self._shift(statement, threads, True)

    def _shr(self, statement: Statement, threads: Mask) -> None:
        self._shift(statement, threads, False)

    def _mov(self, statement: Statement, threads: Mask) -> None:
        kind, (to, of) = statement.modifiers[-1], statement.operands
        if of.startswith("{"):  # two halves become a whole, the low one first
            low, high = (self.get(part, f"b{width(kind) // 2}") for part in _parts(of))
            whole = low.astype(numpy_type(kind)) | (
                high.astype(numpy_type(kind)) << np.uint8(width(kind) // 2)
            )
            self.put(to, whole, kind, threads)
        elif to.startswith("{"):
            whole, half = self.get(of, kind), f"b{width(kind) // 2}"
            for i, part in enumerate(_parts(to)):
                if part != "_":
                    self.put(part, whole >> np.uint8(i * width(half)), half, threads)
        else:
            self.put(to, self.get(of, kind), kind, threads)

    def _selp(self, statement: Statement, threads: Mask) -> None:
        to, yes, no, condition = statement.operands
        kind = f"b{width(statement.modifiers[-1])}"
        chosen = np.where(self.registers[condition], self.get(yes, kind), self.get(no, kind))
        self.put(to, chosen, kind, threads)

    def _setp(self, statement: Statement, threads: Mask) -> None:
        comparison, *modifiers, kind = statement.modifiers
        to, x, y = statement.operands[:3]
        numbers = [self.get(name, kind) for name in (x, y)]
        if "ftz" in modifiers:
            numbers = [flushed(x) for x in numbers]
        result = COMPARISONS[comparison](*numbers)
        if len(statement.operands) > 3:  # setp.lt.and.f32 p, x, y, q
            before = self.get(statement.operands[3], "pred")
            result = INTEGERS[modifiers[0]](result, before)
        self.put(to, result, "pred", threads)

    def _cvt(self, statement: Statement, threads: Mask) -> None:
        *modifiers, to, of = statement.modifiers
        if to in ("bf16x2", "f16x2"):  # the first source is the high half
            high, low = (self.get(name, of) for name in statement.operands[1:])
            halves = [encoded(x, to[:-2]).astype(np.uint32) for x in (low, high)]
            self.put(statement.operands[0], halves[0] | (halves[1] << np.uint8(16)), "b32", threads)
            return
        numbers = self.get(statement.operands[1], of)
        if "ftz" in modifiers:
            numbers = flushed(numbers)
        for name, rounding in TO_WHOLE.items():
            if name in modifiers:
                numbers = rounding(numbers)
        if "sat" in modifiers or "rz" in modifiers:
            raise NotImplementedError(statement.text)
        self.put(statement.operands[0], numbers, to, threads)

    def _shfl(self, statement: Statement, threads: Mask) -> None:
        """The value of the lane whose number differs by the bits of a mask, or of a given lane."""
        way = statement.modifiers[1]
        to, of, by = (name.partition("|")[0] for name in statement.operands[:3])
        lane = np.arange(self.count)
        number = self.get(by, "u32").astype(np.int64)
        first = lane - lane % WARP
        source = {"bfly": lane ^ number, "idx": first + number % WARP}[way]
        self.put(to, self.get(of, "b32")[source], "b32", threads)

    def _redux(self, statement: Statement, threads: Mask) -> None:
        """The largest or least number of a warp, for all of its lanes."""
        _, way, kind = statement.modifiers
        to, of, _ = statement.operands
        numbers = np.broadcast_to(self.get(of, kind), (self.count,)).reshape(-1, WARP)
        result = {"max": numbers.max, "min": numbers.min}[way](axis=1)
        self.put(to, np.repeat(result, WARP), kind, threads)

    def _memory(self, statement: Statement, threads: Mask) -> None:
        """A load or store; each thread's own, of one number or of two or four that are adjacent."""
        space, kind = statement.modifiers[0], statement.modifiers[-1]
        is_load = statement.operation == "ld"
        place, numbers = statement.operands[:2] if not is_load else statement.operands[1::-1]
        if space == "param":
            index = re.search(r"_param_(\d+)", place)
            assert index
            bits = self.parameters[int(index.group(1))].astype(f"u{width(kind) // 8}")
            self._put_loaded(numbers, bits, kind, threads)
            return
        if space != "global":
            raise NotImplementedError(statement.text)
        found = re.match(r"\[\s*(%rd\d+)\s*(?:\+\s*(-?\d+))?\s*\]", place)
        assert found, place
        start = self.get(found.group(1), "u64") + np.int64(found.group(2) or 0).astype(np.uint64)
        start = np.broadcast_to(start, (self.count,))
        doing = np.arange(self.count) if threads is None else np.flatnonzero(threads)
        for i, name in enumerate(_parts(numbers)):
            cells, at = self.memory.cells(
                start[doing] + np.uint64(i * width(kind) // 8), width(kind)
            )
            if is_load:
                loaded = np.zeros(self.count, cells.dtype)
                loaded[doing] = cells[at]
                self._put_loaded(name, loaded, kind, threads)
            else:
                stored = self.get(name, f"b{_register_width(name)}").astype(cells.dtype)
                cells[at] = np.broadcast_to(stored, (self.count,))[doing]

    def _put_loaded(self, name: str, bits: Array, kind: str, threads: Mask) -> None:
        """Set a register, which may be wider than what is loaded: by zeros, or by the sign."""
        register = f"{kind[0] if kind[0] in 'su' else 'b'}{_register_width(name)}"
        source = bits.view(numpy_type(kind)) if kind[0] == "s" else bits
        self.put(name, source.astype(numpy_type(register)), register, threads)


def _register_width(name: str) -> int:
    """Bits of a register, by its name: %rs1 has 16, %r1 32, %rd1 64; of a constant, 32."""
    found = re.match(r"%(rs|rd|r)\d", name)
    return {"rs": 16, "r": 32, "rd": 64}[found.group(1)] if found else 32


def _parts(operand: str) -> list[str]:
    """The registers of a vector, or the only one."""
    return [part.strip() for part in operand.strip("{}").split(",")]


def _without(threads: Mask, gone: Mask) -> Array:
    """Those of the threads that haven't gone."""
    if gone is None:
        return np.zeros(1, np.bool_)
    return ~gone if threads is None else threads & ~gone


def run(
    ptx: str, arguments: Sequence[Any], programs: int, *, off: float = 0.0, seed: int = 0
) -> None:
    """Launch a kernel: what it stores is then in the tensors, as after `kernel[(programs,)](...)`.

    Args:
        ptx: a module with one kernel.
        arguments: of the kernel, in order, without those known to the compiler: tensors on the CPU,
            contiguous, or numbers.
        programs: how many there are.
        off: the error of the special function unit, as a share of its bound; up or down by chance.
        seed: of that chance.
    """
    Machine(parse(ptx), arguments, programs, off, seed).run()
