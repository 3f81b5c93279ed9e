#!/bin/bash
# Cyrus IMAP 3.6 of Debian 12. See common.sh for the arguments. Personalities:
#   legacy  MOVE suppressed: not listed, though Cyrus would still carry it out        native  nothing suppressed
#   quota   200 kB for each user
. "$(dirname "$0")/common.sh"
PACKAGES=(libsasl2-modules libsasl2-modules-db sasl2-bin libcom-err2 libical3 libicu72 libjansson4 libkrb5-3 libldap-2.5-0
  libpcre3 libpq5 libsqlite3-0 libwrap0 libxapian30 libxml2 libzephyr4 libnghttp2-14 libbrotli1 libpcre2-posix3)
UNPACKED=(cyrus-imapd cyrus-common)
begin "$@"

bin=$PREFIX/usr/lib/cyrus/bin
mkdir -p conf/{db,log,msg,proc,ptclient,socket,sieve,backup,quota,user,lock,tmp} spool
tls= imaps=
if [ -n "$TLS_PORT" ]; then
  tls="tls_server_cert: $DIR/cert.pem
tls_server_key: $DIR/key.pem"
  imaps="imaps cmd=\"$bin/imapd -C $DIR/imapd.conf -s -U 30\" listen=\"127.0.0.1:$TLS_PORT\" prefork=0 maxchild=200 proto=\"tcp4\""
  ln -sfn "$DIR/heard" conf/log/alice # Cyrus logs the sessions of a user for whom there is this folder
fi
# Without defaultpartition each process seeds rand() with the second before it makes its first mailbox: two mailboxes that
# two processes make in one second get one unique id, by which Cyrus 3.6 stores them, and are one from then on.
cat >imapd.conf <<C
configdirectory: $DIR/conf
partition-default: $DIR/spool
defaultpartition: default
proc_path: $DIR/conf/proc
mboxname_lockpath: $DIR/conf/lock
lmtpsocket: $DIR/conf/socket/lmtp
idlesocket: $DIR/conf/socket/idle
notifysocket: $DIR/conf/socket/notify
cyrus_user: $MAIL_USER
admins: cyrus
servername: localhost
allowplaintext: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: $DIR/sasldb2
sasl_mech_list: PLAIN LOGIN
altnamespace: yes
unixhierarchysep: yes
autocreate_quota: $(has quota && echo 200 || echo 0)
autocreate_post: no
virtdomains: off
hashimapspool: no
duplicatesuppression: no
sieveusehomedir: no
sievedir: $DIR/conf/sieve
imapidlepoll: 1
statuscache: no
$tls
$(has native || echo 'suppress_capabilities: MOVE')
C
cat >cyrus.conf <<C
START {
  recover cmd="$bin/ctl_cyrusdb -C $DIR/imapd.conf -r"
  idled cmd="$bin/idled -C $DIR/imapd.conf"
}
SERVICES {
  imap cmd="$bin/imapd -C $DIR/imapd.conf -U 30" listen="127.0.0.1:$PORT" prefork=1 maxchild=200 proto="tcp4"
  $imaps
}
EVENTS {
  checkpoint cmd="$bin/ctl_cyrusdb -C $DIR/imapd.conf -c" period=30
}
C
for login in alice:wonderland bob:builder; do
  printf %s "${login#*:}" | saslpasswd2 -p -c -f "$DIR/sasldb2" -u localhost "${login%%:*}"
done
# Not as root even for a moment: a change of user would make the kernel forget that it ends with its parent.
user=()
if [ "$(id -u)" = 0 ]; then
  chown -R "$MAIL_USER:$MAIL_GROUP" "$DIR"
  user=(--reuid "$MAIL_USER" --regid "$MAIL_GROUP" --clear-groups)
fi
library=$(dirname "$(find "$PREFIX/usr/lib" -name 'libcyrus_imap.so*' | head -n 1)")
run "${user[@]}" env -i CYRUS_USER="$MAIL_USER" CYRUS_VERBOSE=1 LD_LIBRARY_PATH="$library" PATH=/usr/sbin:/usr/bin:/bin \
  "$bin/master" -C "$DIR/imapd.conf" -M "$DIR/cyrus.conf" -p "$DIR/master.pid" -L /dev/null -D
