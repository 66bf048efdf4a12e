"""SMT-LIB on standard input and output, as the executable `cvc5 --lang smt` speaks it, by the Python package `cvc5`.

The package holds the solver and no executable. Written for one client, which asks and reads in turn: commands are carried
out as soon as they are complete, and what they print is flushed at once.
"""

import sys

PASSED_ON = ("--tlimit-per=", "--rlimit-per=")


def options(arguments):
    """The options of the solver. What is not known ends the process: a limit that was not understood is none."""
    found = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--lang":
            if next(rest, None) != "smt":
                sys.exit("cvc5_shim.py: only `--lang smt` is spoken here")
        elif argument.startswith(PASSED_ON):
            found.append(argument[2:].split("=", 1))
        else:
            sys.exit(f"cvc5_shim.py: the option {argument} is not known here")
    return found


def commands(lines):
    """Complete commands: text up to where its parentheses close, outside of strings, quoted symbols and comments."""
    text, depth, inside = [], 0, None
    for line in lines:
        for character in line:
            if inside == ";":
                if character == "\n":
                    inside = None
                continue
            text.append(character)
            if inside:
                # A doubled quote closes a string and opens another one, which comes to the same.
                if character == inside:
                    inside = None
            elif character in '"|':
                inside = character
            elif character == ";":
                text.pop()
                inside = ";"
            elif character == "(":
                depth += 1
            elif character == ")":
                depth -= 1
                if depth == 0:
                    yield "".join(text)
                    text = []


class Session:
    """One solver, until it is reset."""

    def __init__(self, library, chosen):
        self.library, self.chosen = library, chosen
        self.reset()

    def reset(self):
        # `reset` takes the options of the session back with it; those of the command line stay.
        manager = self.library.TermManager()
        self.solver = self.library.Solver(manager)
        for name, value in self.chosen:
            self.solver.setOption(name, value)
        self.symbols = self.library.SymbolManager(manager)

    def answer(self, command):
        # A parser for each: one that is fed piece by piece refuses what follows `set-logic`. What was declared is in `symbols`.
        parser = self.library.InputParser(self.solver, self.symbols)
        parser.setStringInput(self.library.InputLanguage.SMT_LIB_2_6, command, "stdin")
        return parser.nextCommand().invoke(self.solver, self.symbols)


def main(arguments):
    import cvc5

    if arguments == ["--version"]:
        print(f"cvc5 {cvc5.__version__} (Python package)")
        return
    # The client writes and reads UTF-8, whatever the locale says.
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8")
    session = Session(cvc5, options(arguments))
    for command in commands(sys.stdin):
        name = command.strip(" \t\r\n()")
        if name == "exit":
            return
        if name == "reset":
            session.reset()
            continue
        try:
            said = session.answer(command)
        except Exception as error:
            # What the executable does: it tells, and reads no further.
            reason = " ".join(str(error).split()).replace('"', "'")
            print(f'(error "Parse Error: {reason}")', flush=True)
            sys.exit(1)
        if name == "check-sat":
            # The library adds why it gave up; the executable does not.
            said = said.split(maxsplit=1)[0]
        if said:
            print(said, end="" if said.endswith("\n") else "\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
