"""Run `pyserini.eval.trec_eval`."""

from __future__ import annotations

from effir_integrations.adapters.pyserini.launch import main

if __name__ == "__main__":
    main("pyserini.eval.trec_eval")
