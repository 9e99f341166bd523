# One image for `lmaas serve`, `lmaas engine` and `lmaas migrate`; docs/deployment.md says how to use
# it. Needs no BuildKit. Build arguments stay in the stages that are thrown away.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# The lists of packages, so that the large layers below change with these alone.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /build
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; table = tomllib.load(open("pyproject.toml", "rb")); \
        print(*table["project"]["dependencies"], *table["build-system"]["requires"], sep="\n")' \
        > application.txt \
    && python3 -c 'import tomllib; table = tomllib.load(open("pyproject.toml", "rb")); \
        print(*table["project"]["optional-dependencies"]["models"], sep="\n")' > models.txt

FROM ${PYTHON_IMAGE} AS dependencies
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
# Where packages come from, if not from PyPI: pip reads these by itself, unset ones do nothing.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ARG PIP_TRUSTED_HOST
# PyTorch's own index has the build for CPUs; empty: as the other packages, on x86-64 the CUDA build.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /venv
COPY constraints.txt ./
# torch comes first and alone, so that its index serves nothing else.
RUN tools/bin/pip --python /venv/bin/python install --no-deps \
        ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --constraint constraints.txt torch
# The packages before our code: a new release of ours leaves the large layer as it was.
COPY --from=requirements /build/application.txt ./
RUN tools/bin/pip --python /venv/bin/python install --constraint constraints.txt \
        --requirement application.txt

FROM dependencies AS application
COPY . .
RUN tools/bin/pip --python /venv/bin/python install --no-deps --no-build-isolation --target /app .

# The model that is served where LMAAS_MODEL is unset. What converts it stays in this stage.
FROM dependencies AS model
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ARG PIP_TRUSTED_HOST
COPY --from=requirements /build/models.txt ./
RUN tools/bin/pip --python /venv/bin/python install --constraint constraints.txt \
        --requirement models.txt
COPY --from=application /app /app
# Empty: none is fetched, and the demo model is served.
ARG FETCH_MODEL=smollm2
RUN mkdir models \
    && if [ -n "$FETCH_MODEL" ]; then \
        PATH=/build/tools/bin:$PATH PYTHONPATH=/app LMAAS_DATA_DIR=/build \
            /app/bin/lmaas models fetch "$FETCH_MODEL" \
        && rm models/.*.lock; \
    fi

FROM ${PYTHON_IMAGE}
# tini forwards signals and reaps; libgomp1 is LightGBM's; gcc makes the engine's kernels.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp lmaas \
    && install --directory --owner lmaas --group lmaas \
        /var/lib/lmaas /var/lib/lmaas/hub /var/lib/lmaas/models /run/lmaas \
    && install --directory --owner lmaas --group lmaas --mode 700 \
        /var/lib/lmaas/data /run/database
COPY --from=dependencies /venv /venv
COPY --from=model /build/models /venv/share/lmaas/models
COPY deploy/health.py deploy/database_password.py /usr/local/lib/lmaas/
COPY --from=application /app /app
ENV PATH=/app/bin:/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/var/lib/lmaas/hub \
    XDG_CACHE_HOME=/var/cache/lmaas \
    TRITON_CACHE_DIR=/var/cache/lmaas/triton \
    LMAAS_HOST=0.0.0.0 \
    LMAAS_DATA_DIR=/var/lib/lmaas/data
USER 10001:10001
WORKDIR /var/lib/lmaas
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=10m --retries=3 \
    CMD ["python3", "/usr/local/lib/lmaas/health.py", "http://127.0.0.1:8000/health/ready"]
ENTRYPOINT ["tini", "--", "lmaas"]
CMD ["serve"]
