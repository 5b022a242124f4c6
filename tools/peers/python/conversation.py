"""How a peer in Python talks with the driver. It needs no package."""

import json
import os
import sys


def converse(hello, answer):
    """Answers the driver until it hangs up. `answer` takes a request and gives the reply."""
    # What libraries print to stdout must not stand among the replies.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(reply):
        print(json.dumps(reply), file=out)

    say({"hello": hello})
    for line in sys.stdin:
        try:
            say(answer(json.loads(line)))
        except Exception as error:  # a peer that fails is a row that says why
            say({"error": " ".join(str(error).split()) or repr(error)})
    # Not every library survives its own destructors.
    os._exit(0)
