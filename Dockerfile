# docker build -t fakedetect .                                     (CPU)
# docker build -t fakedetect --build-arg EXTRAS=cuda13 .           (NVIDIA GPUs)
# docker run --rm -v "$PWD:/data" fakedetect demo                  (any of its commands)
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm
ARG EXTRAS=
RUN useradd --create-home --uid 1000 detect
WORKDIR /opt/fakedetect
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY configs configs
COPY fakedetect_jax fakedetect_jax
COPY tfds_ffpp tfds_ffpp
RUN pip install --no-cache-dir -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"
# Nobody's data are written as root's; -u "$(id -u):$(id -g)" takes your own number.
USER detect
WORKDIR /data
ENV HOME=/home/detect
ENTRYPOINT ["fakedetect"]
CMD ["--help"]
