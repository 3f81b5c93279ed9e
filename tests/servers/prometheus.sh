#!/bin/bash
# Prometheus 2.42 of Debian 12, only unpacked, with the alerts of grafana/. See common.sh for the arguments, but:
#   PERSONALITY  HOST:PORT that it scrapes every second
# It has no users and no TLS. promtool is put into DIR.
. "$(dirname "$0")/common.sh"
UNPACKED=(prometheus)
RULES=$(cd "$(dirname "$0")/../../grafana" && pwd)/alerts.yaml
begin "$@"

ln -s "$PREFIX/usr/bin/promtool" promtool
cat >prometheus.yml <<C
global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
rule_files: ['$RULES']
scrape_configs:
  - job_name: imapmove
    static_configs: [{ targets: ['$PERSONALITY'] }]
C
run "$PREFIX/usr/bin/prometheus" --config.file=prometheus.yml --storage.tsdb.path=data \
  --web.listen-address="127.0.0.1:$PORT" --log.level=warn
