#!/bin/bash
# GNU Mailutils imap4d 3.15 of Debian 12, which has neither UIDPLUS nor MOVE, with Maildir. See common.sh for the
# arguments. Personality:
#   legacy  as it comes
# It does not speak TLS here. A session outlives the recipe until its client leaves.
. "$(dirname "$0")/common.sh"
PACKAGES=(socat openssl mailutils-common libgsasl18 libgssapi-krb5-2 libk5crypto3 libkrb5-3 libldap-2.5-0 libmailutils9
  libnsl2 libunistring2 libwrap0 libgnutls30)
UNPACKED=(mailutils-imap4d)
begin "$@"
[ -z "$TLS_PORT" ] || fail "this recipe has no TLS"

mkdir -p spool home/alice home/bob passwd
# imap4d looks for a user without "@domain" in the file that is named by the address of its standard input.
ids=$(id -u "$MAIL_USER"):$(getent group "$MAIL_GROUP" | cut -d: -f3)
for login in alice:wonderland bob:builder; do
  user=${login%%:*}
  echo "$user:$(openssl passwd -6 "${login#*:}"):$ids:$user:$DIR/home/$user:/bin/sh:maildir:$DIR/spool/$user"
done >passwd/127.0.0.1
[ "$(id -u)" = 0 ] && chown -R "$MAIL_USER:$MAIL_GROUP" spool home

cat >imap4d.conf <<C
mode inetd;
auth {
  authentication clear;
  authentication generic;
  authorization clear;
  authorization virtdomain;
};
virtdomain { passwd-dir $DIR/passwd; };
mailbox { mail-spool maildir://$DIR/spool; mailbox-type maildir; };
namespace personal { prefix "" { directory $DIR/home; delimiter "/"; mailbox-type maildir; }; };
logging { syslog no; print-severity yes; };
tcp-wrappers { enable no; };
C
# Its standard input must be the socket itself: "nofork" makes it so.
run socat "TCP-LISTEN:$PORT,bind=127.0.0.1,reuseaddr,fork,nodelay,backlog=128" \
  "EXEC:$PREFIX/usr/sbin/imap4d --inetd --config-file=$DIR/imap4d.conf,nofork"
