#!/bin/bash
# Dovecot 2.3 of Debian 12. See common.sh for the arguments. Personalities:
#   legacy     the full capability list without MOVE        native     with MOVE
#   nouidplus  neither MOVE nor UIDPLUS                      mdbox      mail in mdbox, else in Maildir
#   acl        alice has the mailboxes Locked (no insert), NoDelete (no \Deleted, no expunge) and ReadOnly
#   quota      200 kB or 40 messages for each user
#   trusted    this machine may say by ID where its clients come from
#   haproxy    TLS_PORT is a port without TLS where each connection begins with a PROXY header
#   owncopies  in Maildir, a copy is a file of its own and not a hard link
# Dovecot only edits its list: it carries out a MOVE or UID EXPUNGE that it does not list.
. "$(dirname "$0")/common.sh"
PACKAGES=(dovecot-imapd)
begin "$@"

mkdir -p run state mail home acl
LOGIN_USER=$MAIL_USER INTERNAL_USER=$MAIL_USER
if [ "$(id -u)" = 0 ]; then LOGIN_USER=dovenull INTERNAL_USER=dovecot; chown "$MAIL_USER:$MAIL_GROUP" mail home; fi

ids=$(id -u "$MAIL_USER"):$(getent group "$MAIL_GROUP" | cut -d: -f3)
printf '%s\n' "alice:{PLAIN}wonderland:$ids::$DIR/home/alice::" "bob:{PLAIN}builder:$ids::$DIR/home/bob::" >users
[ "$(id -u)" = 0 ] && chown "$INTERNAL_USER" users

capability='IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT SORT=DISPLAY THREAD=REFERENCES THREAD=REFS
 THREAD=ORDEREDSUBJECT MULTIAPPEND URL-PARTIAL CATENATE UNSELECT CHILDREN NAMESPACE UIDPLUS LIST-EXTENDED I18NLEVEL=1
 CONDSTORE QRESYNC ESEARCH ESORT SEARCHRES WITHIN CONTEXT=SEARCH LIST-STATUS BINARY MOVE SNIPPET=FUZZY PREVIEW=FUZZY
 PREVIEW STATUS=SIZE SAVEDATE LITERAL+ NOTIFY'
capability=${capability//$'\n'/}
has native || capability=${capability/ MOVE/}
has nouidplus && capability=${capability/ UIDPLUS/}

plugins= imap_plugins= settings=
# A list of one's own does not get what plugins add.
if has acl; then
  capability="$capability ACL RIGHTS=texk"
  plugins="$plugins acl" imap_plugins="$imap_plugins imap_acl" settings="$settings
  acl = vfile:$DIR/acl"
  for rights in .DEFAULT=lrwstekxai INBOX=lrwstekxai Locked=lrws NoDelete=lrwsi ReadOnly=lr; do
    echo "user=alice ${rights#*=}" >"acl/${rights%%=*}"
  done
fi
if has quota; then
  capability="$capability QUOTA"
  plugins="$plugins quota" imap_plugins="$imap_plugins imap_quota" settings="$settings
  quota = count:User quota
  quota_rule = *:storage=200K:messages=40
  quota_grace = 0
  quota_vsizes = yes"
fi
tls='ssl = no' imaps='port = 0' rawlog= proxied=
if has haproxy; then
  proxied="inet_listener imap_proxied {
    address = 127.0.0.1
    port = $TLS_PORT
    haproxy = yes
  }"
  TLS_PORT=
fi
if [ -n "$TLS_PORT" ]; then
  tls="ssl = yes
ssl_cert = <$DIR/cert.pem
ssl_key = <$DIR/key.pem"
  imaps="address = 127.0.0.1
    port = $TLS_PORT
    ssl = yes"
  rawlog="rawlog_dir = $DIR/heard"
fi
# Without root nothing can be chrooted.
unrooted= ; [ "$(id -u)" = 0 ] || unrooted='chroot ='

cat >dovecot.conf <<C
base_dir = $DIR/run
state_dir = $DIR/state
instance_name = $DIR
log_path = /dev/stderr
listen = 127.0.0.1
protocols = imap
default_internal_user = $INTERNAL_USER
default_internal_group = $(id -gn "$INTERNAL_USER")
default_login_user = $LOGIN_USER
first_valid_uid = 1
first_valid_gid = 1
$tls
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
$(has trusted && echo 'login_trusted_networks = 127.0.0.1/32')
$(has haproxy && echo 'haproxy_trusted_networks = 127.0.0.1/32')
imap_capability = $capability
mail_location = $(has mdbox && echo mdbox || echo maildir):$DIR/mail/%u
mail_plugins =$plugins
maildir_copy_with_hardlinks = $(has owncopies && echo no || echo yes)
mail_max_userip_connections = 200
protocol imap {
  mail_plugins = \$mail_plugins$imap_plugins
  $rawlog
}
plugin {$settings
}
passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%u $DIR/users
}
userdb {
  driver = passwd-file
  args = username_format=%u $DIR/users
}
namespace inbox {
  inbox = yes
  separator = /
$(has acl && printf '  mailbox %s {\n    auto = create\n  }\n' Locked NoDelete ReadOnly)
}
service anvil {
  $unrooted
}
service stats {
  $unrooted
}
service imap-login {
  $unrooted
  process_min_avail = 1
  service_count = 0
  inet_listener imap {
    address = 127.0.0.1
    port = $PORT
  }
  inet_listener imaps {
    $imaps
  }
  $proxied
}
service auth {
  user = \$default_internal_user
}
C
run dovecot -F -c "$DIR/dovecot.conf"
