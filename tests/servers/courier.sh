#!/bin/bash
# Courier-IMAP 5.0 of Debian 12: the real couriertcpd, imaplogin and imapd; only authdaemond is replaced, because its
# configuration and its socket are fixed in /etc and /run. See common.sh for the arguments. Personalities:
#   legacy     Debian's own list: UIDPLUS and ACL, never MOVE (Courier has none)
#   quota      a Maildir++ quota of 200 kB or 40 messages for each user
#   brokentls  with TLS_PORT: STARTTLS is answered OK, and then fails in clear (SRV-5)
# Mailboxes have the prefix "INBOX.".
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/common.sh"
patch() {
  # libcourierauth names its socket /run/courier/authdaemon/socket. A relative name of the same length gives each DIR
  # its own. (gcc compares and copies the name as two overlapping halves of 16 octets, hence the doubled "t".)
  local library=$PREFIX/usr/lib/libcourierauth.so.0.0.0 size nul='\x00\x00\x00\x00\x00\x00\x00'
  size=$(stat -c %s "$library")
  LC_ALL=C sed -i -e "s|/run/courier/autthdaemon/socket|auth.sock$nul$nul$nul\\x00|" \
    -e "s|/run/courier/authdaemon/socket|auth.sock$nul$nul$nul|" "$library"
  [ "$(stat -c %s "$library")" = "$size" ] || fail "libcourierauth: the name has changed its length"
  grep -q auth.sock "$library" || fail "libcourierauth is not the one this recipe knows"
}
PACKAGES=(libcourier-unicode4 gamin libgamin0 libgdbm6 libidn12 libltdl7 libgnutls30 libpcre3 python3)
UNPACKED=(courier-imap courier-base courier-authlib)
# Said before anything is built; why, see STARTTLS below.
name=$(id -un)
[ "${1:-}" != install ] || [ "$(id -u)" = 0 ] || [ ${#name} -le 7 ] ||
  fail "run this as root, or as a user whose name has at most 7 letters: Courier's STARTTLS takes no longer one"
begin "$@"

rm -f auth.sock
for user in alice bob; do
  [ -d "home/$user/Maildir" ] && continue # started before
  mkdir -p "home/$user"
  "$PREFIX/usr/bin/maildirmake.courier" "home/$user/Maildir"
  has quota && "$PREFIX/usr/bin/maildirmake.courier" -q 200000S,40C "home/$user/Maildir"
done
[ "$(id -u)" = 0 ] && chown -R "$MAIL_USER:$MAIL_GROUP" home

setpriv --pdeathsig TERM python3 "$HERE/courier_authdaemond.py" "$DIR" "$(id -u "$MAIL_USER")" \
  "$(getent group "$MAIL_GROUP" | cut -d: -f3)" >>server.log 2>&1 </dev/null &
for _ in $(seq 200); do [ -S auth.sock ] && break; sleep 0.05; done
[ -S auth.sock ] || fail "courier_authdaemond.py does not listen: $(tail -n 3 server.log)"

# For STARTTLS imaplogin runs couriertls as the user "courier", whom only Debian's package makes. A copy names one of the
# same length: whoever owns the mail, or nobody at all, which is what Courier says OK to before it notices.
imaplogin=$PREFIX/usr/lib/courier/courier/imaplogin tls_user=$MAIL_USER
has brokentls && tls_user=no-user
if [ -n "$TLS_PORT" ]; then
  [ ${#tls_user} -le 7 ] || fail "STARTTLS needs a start as root, or by a user whose name is no longer than \"courier\""
  nul=$(printf '\\x00%.0s' $(seq $((8 - ${#tls_user}))))
  LC_ALL=C sed "s|\x00courier\x00|\x00$tls_user$nul|" "$imaplogin" >imaplogin
  cmp -s "$imaplogin" imaplogin && fail "imaplogin is not the one this recipe knows"
  imaplogin=$DIR/imaplogin
  chmod 755 imaplogin
  cat key.pem cert.pem >imapd.pem
  chmod 600 imapd.pem
  chown "$MAIL_USER" imapd.pem
fi

capability='IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT THREAD=REFERENCES SORT QUOTA IDLE'
courier=(env -i LD_LIBRARY_PATH="$PREFIX/usr/lib" PATH="$PREFIX/usr/bin:/usr/bin:/bin"
  IMAP_CAPABILITY="$capability" IMAP_CAPABILITY_TLS="$capability AUTH=PLAIN"
  IMAP_TLS_REQUIRED=0 IMAP_KEYWORDS=1 IMAP_ACL=1 IMAP_IDLE_TIMEOUT=60 IMAP_USELOCKS=1
  IMAP_MAILBOX_SANITY_CHECK=1 IMAP_DISABLETHREADSORT=0 IMAP_CHECK_ALL_FOLDERS=0 IMAP_OBSOLETE_CLIENT=0
  IMAP_ENHANCEDIDLE=0 IMAP_TRASHFOLDERNAME=Trash IMAP_EMPTYTRASH=Trash:7 IMAP_MOVE_EXPUNGE_TO_TRASH=0
  IMAP_SHAREDINDEXFILE="$DIR/shared-index" COURIERTLS="$PREFIX/usr/bin/couriertls" TLS_CERTFILE="$DIR/imapd.pem"
  TLS_VERIFYPEER=NONE)
tcpd=("$PREFIX/usr/sbin/couriertcpd" -address=127.0.0.1 -nodnslookup -noidentlookup -maxprocs=200 -maxperip=200)
imapd=("$imaplogin" "$PREFIX/usr/bin/imapd" Maildir)
if [ -n "$TLS_PORT" ]; then
  (run "${courier[@]}" IMAP_TLS=1 "${tcpd[@]}" "$TLS_PORT" "$PREFIX/usr/bin/couriertls" -server -tcpd "${imapd[@]}") &
fi
run "${courier[@]}" IMAP_STARTTLS="$([ -n "$TLS_PORT" ] && echo YES || echo NO)" "${tcpd[@]}" "$PORT" "${imapd[@]}"
