#!/bin/bash
# haproxy of Debian 12, in front of a gateway. See common.sh for the arguments. PERSONALITY is HEADER,PORT: what it sends
# (send-proxy or send-proxy-v2), and the gateway's port.
. "$(dirname "$0")/common.sh"
PACKAGES=(liblua5.3-0 libopentracing-c-wrapper0 libpcre2-8-0 libssl3)
UNPACKED=(haproxy)
begin "$@"

cat >haproxy.cfg <<C
defaults
  mode tcp
  timeout connect 10s
  timeout client 1m
  timeout server 1m
listen imap
  bind 127.0.0.1:$PORT
  server gateway 127.0.0.1:${PERSONALITY#*,} ${PERSONALITY%%,*}
C
run "$PREFIX/usr/sbin/haproxy" -db -f haproxy.cfg
