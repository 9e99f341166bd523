"""`python -m benchmarks.report`, which is `make report`."""

from benchmarks.report.run import publish

if __name__ == "__main__":
    for written in publish():
        print(f"written: {written}")
