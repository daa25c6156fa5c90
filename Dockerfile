# The sequencer (not the broker): `docker compose up` builds it. See docker-compose.yml.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY sequencer sequencer
COPY state state
RUN python -m venv /opt/sequencer && /opt/sequencer/bin/pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/sequencer /opt/sequencer
# The indexes; they may be lost at any time and are then rebuilt from the events.
ENV PATH=/opt/sequencer/bin:$PATH PYTHONUNBUFFERED=1 SEQUENCER_INDEX_DIR=/var/lib/sequencer
RUN useradd --system --uid 10001 sequencer && install -d -o sequencer /var/lib/sequencer
USER sequencer
VOLUME /var/lib/sequencer
ENTRYPOINT ["sequencer"]
CMD ["run"]
