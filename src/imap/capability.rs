//! Capability lists: what is added, what is removed, each with its reason (CAP-1 to CAP-7).

use super::Strategy;
use super::scan::without_line_end;

/// What the upstream said that it can do, in its latest list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// MOVE or IMAP4rev2: a MOVE passes through untouched (CAP-3).
    pub native_move: bool,
    /// UIDPLUS (RFC 4315).
    pub uidplus: bool,
    /// LITERAL+ (RFC 7888): `{n+}` of any length.
    pub literal_plus: bool,
    /// LITERAL- or IMAP4rev2: `{n+}` up to 4096 octets.
    pub literal_minus: bool,
    /// ACL (RFC 4314).
    pub acl: bool,
    /// ID (RFC 2971).
    pub id: bool,
    /// SEARCHRES (RFC 5182) or IMAP4rev2: `$`.
    pub searchres: bool,
    /// STARTTLS.
    pub starttls: bool,
}

/// The longest `{n+}` that LITERAL- allows, in octets (RFC 7888 section 5).
pub const LITERAL_MINUS_MAX: u64 = 4096;

/// Shows that the upstream has UIDPLUS: without it no UID EXPUNGE can be written, and a bare EXPUNGE never is.
#[derive(Clone, Copy, Debug)]
pub struct Uidplus(());

impl Capabilities {
    /// Reads a list: what stands behind `CAPABILITY`.
    pub fn parse(list: &[u8]) -> Capabilities {
        let has = |name: &str| tokens(list).any(|token| token.eq_ignore_ascii_case(name.as_bytes()));
        let rev2 = has("IMAP4rev2");
        Capabilities {
            native_move: rev2 || has("MOVE"),
            uidplus: has("UIDPLUS"),
            literal_plus: has("LITERAL+"),
            literal_minus: rev2 || has("LITERAL-"),
            acl: has("ACL"),
            id: has("ID"),
            searchres: rev2 || has("SEARCHRES"),
            starttls: has("STARTTLS"),
        }
    }

    /// What becomes of a MOVE here.
    pub fn strategy(&self) -> Strategy {
        match (self.native_move, self.uidplus) {
            (true, _) => Strategy::Native,
            (false, true) => Strategy::Copy,
            (false, false) => Strategy::Refuse,
        }
    }

    /// The gateway carries out MOVE here (CAP-2).
    pub fn translates(&self) -> bool {
        self.strategy() == Strategy::Copy
    }

    /// The proof that UID EXPUNGE exists.
    pub fn proof_of_uidplus(&self) -> Option<Uidplus> {
        self.uidplus.then_some(Uidplus(()))
    }

    /// Whether a non-synchronising literal of this length may be written.
    pub fn allows_non_synchronising(&self, octets: u64) -> bool {
        self.literal_plus || (self.literal_minus && octets <= LITERAL_MINUS_MAX)
    }
}

impl Strategy {
    /// On an upstream whose latest capability list is this one: what stands behind `CAPABILITY` (RFC 9051 section 7.2.2).
    pub fn of(list: &[u8]) -> Strategy {
        Capabilities::parse(list).strategy()
    }
}

/// What the client's own leg is like (CAP-7), and what was learnt of the upstream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leg {
    /// STARTTLS can be had now.
    pub starttls: bool,
    /// LOGIN is refused before TLS.
    pub login_disabled: bool,
    /// The gateway ends TLS on either leg: certificates and channel bindings do not reach across.
    pub terminates_tls: bool,
    /// The list gets MOVE whatever it says (`advertise-before-login`).
    pub always_move: bool,
}

/// The list for the client: what blinds or misleads is gone, what the gateway does is there, all else
/// unchanged and in place.
pub fn rewrite(list: &[u8], leg: &Leg) -> Vec<u8> {
    let capabilities = Capabilities::parse(list);
    let text = without_line_end(list);
    let body = text.trim_ascii_end();
    let mut out = Vec::with_capacity(list.len() + 32);
    for (at, token) in body.split(|c| *c == b' ').enumerate() {
        if !token.is_empty() && (must_go(token, leg) || is_own(token, leg) == Some(false)) {
            continue;
        }
        if at > 0 && (!out.is_empty() || list.starts_with(b" ")) {
            out.push(b' ');
        }
        out.extend_from_slice(token);
    }
    let missing = |name: &str| !tokens(list).any(|token| token.eq_ignore_ascii_case(name.as_bytes()));
    let translates = capabilities.translates() || (leg.always_move && !capabilities.native_move);
    for (name, wanted) in
        [("STARTTLS", leg.starttls), ("LOGINDISABLED", leg.login_disabled), ("MOVE", translates)]
    {
        if wanted && missing(name) {
            out.push(b' ');
            out.extend_from_slice(name.as_bytes());
        }
    }
    out.extend_from_slice(&list[body.len()..]);
    out
}

/// Whether the token speaks of the client's own leg, and if so whether it is true there.
fn is_own(token: &[u8], leg: &Leg) -> Option<bool> {
    match () {
        () if token.eq_ignore_ascii_case(b"STARTTLS") => Some(leg.starttls),
        () if token.eq_ignore_ascii_case(b"LOGINDISABLED") => Some(leg.login_disabled),
        () => None,
    }
}

fn must_go(token: &[u8], leg: &Leg) -> bool {
    let token = token.to_ascii_uppercase();
    match token.strip_prefix(b"AUTH=") {
        Some(mechanism) => !mechanism_passes(mechanism, leg.terminates_tls),
        // COMPRESS would blind the gateway; referrals lead the client around it; after UNAUTHENTICATE it would
        // not know whose session it is.
        None => {
            token.starts_with(b"COMPRESS=")
                || [&b"LOGIN-REFERRALS"[..], b"MAILBOX-REFERRALS", b"UNAUTHENTICATE"].contains(&&token[..])
        }
    }
}

/// Whether a SASL mechanism works through a gateway (CAP-6): channel binding cannot survive a terminated TLS
/// leg, nor can EXTERNAL, and the others can begin a security layer that the gateway cannot see through.
pub fn mechanism_passes(mechanism: &[u8], terminates_tls: bool) -> bool {
    let name = mechanism.to_ascii_uppercase();
    let layered = [&b"GSSAPI"[..], b"KERBEROS_V4", b"DIGEST-MD5"].contains(&&name[..]);
    let external = name == b"EXTERNAL" && terminates_tls;
    !(layered || external || name.starts_with(b"GS2-") || name.ends_with(b"-PLUS"))
}

fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    without_line_end(list).split(|c| *c == b' ').filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(list: &str, leg: &Leg) -> String {
        String::from_utf8(rewrite(list.as_bytes(), leg)).unwrap()
    }

    #[test]
    fn cap_2_move_is_added_by_whole_tokens_without_case() {
        let leg = Leg::default();
        assert_eq!(rewritten(" IMAP4rev1 uidplus X", &leg), " IMAP4rev1 uidplus X MOVE");
        assert_eq!(rewritten(" IMAP4rev1 UIDPLUS XMOVE\r\n", &leg), " IMAP4rev1 UIDPLUS XMOVE MOVE\r\n");
        for same in [" IMAP4rev1 XUIDPLUS", " UIDPLUS move", " UIDPLUS IMAP4REV2", " A  B ", ""] {
            assert_eq!(rewritten(same, &leg), same);
        }
    }

    #[test]
    fn cap_3_cap_4_what_becomes_of_a_move_is_in_the_list() {
        assert_eq!(Strategy::of(b" IMAP4rev1 UIDPLUS move\r\n"), Strategy::Native);
        assert_eq!(Strategy::of(b"IMAP4rev2"), Strategy::Native);
        assert_eq!(Strategy::of(b"IMAP4rev1 XMOVE uidplus"), Strategy::Copy);
        assert_eq!(Strategy::of(b"IMAP4rev1 XUIDPLUS"), Strategy::Refuse);
    }

    #[test]
    fn cap_6_what_blinds_or_misleads_is_removed_in_place() {
        let leg = Leg { terminates_tls: true, ..Leg::default() };
        let list = " A COMPRESS=DEFLATE AUTH=PLAIN AUTH=SCRAM-SHA-256-PLUS AUTH=external AUTH=GSSAPI AUTH=GS2-KRB5 B \
                    LOGIN-REFERRALS MAILBOX-REFERRALS UNAUTHENTICATE C";
        assert_eq!(rewritten(list, &leg), " A AUTH=PLAIN B C");
        assert_eq!(rewritten(" AUTH=EXTERNAL", &Leg::default()), " AUTH=EXTERNAL");
    }

    #[test]
    fn cap_7_starttls_and_logindisabled_describe_the_clients_leg() {
        let offered = Leg { starttls: true, login_disabled: true, ..Leg::default() };
        assert_eq!(rewritten(" A STARTTLS B", &offered), " A STARTTLS B LOGINDISABLED");
        assert_eq!(rewritten(" A", &offered), " A STARTTLS LOGINDISABLED");
        assert_eq!(rewritten(" A STARTTLS LOGINDISABLED B", &Leg::default()), " A B");
    }
}
