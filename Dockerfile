# A small image for a CPU. `docker build -t twolens .`, then
# `docker run --rm -p 7860:7860 -v twolens-cache:/home/app/.cache twolens`.
FROM python:3.11-slim AS packages
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
COPY requirements*.txt ./
# What else to install, such as requirements-milvus.txt; nothing by default.
ARG EXTRA=
# Torch from its own CPU index, for the other one brings 4 GB of CUDA; bitsandbytes needs a GPU.
RUN python -m venv /opt/venv \
    && grep -E '^(torch|torchvision)==' requirements.txt > torch.txt \
    && grep -vE '^bitsandbytes==' requirements.txt > others.txt \
    && /opt/venv/bin/pip install -r torch.txt --index-url https://download.pytorch.org/whl/cpu \
    && /opt/venv/bin/pip install -r others.txt ${EXTRA:+-r "$EXTRA"} \
    && find /opt/venv -type d -name tests -path '*site-packages/*/tests' -prune -exec rm -rf {} +

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 app
COPY --from=packages /opt/venv /opt/venv
WORKDIR /srv/twolens
COPY app.py LICENSE README.md ./
COPY core core
COPY precompute precompute
COPY assets assets
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TWOLENS_HOST=0.0.0.0 TWOLENS_PORT=7860
# Made here and owned by the user, or a volume mounted there would belong to root.
RUN mkdir -p /home/app/.cache && chown app:app /home/app/.cache
USER 1000
EXPOSE 7860
# A first start captions the photos of the default gallery, which takes minutes on a small machine.
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['TWOLENS_PORT'] + '/health', timeout=8)"]
CMD ["python", "app.py"]
