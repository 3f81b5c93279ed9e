//! What becomes of the line that begins a command: passed on, refused, carried out, or held (WIRE-1, WIRE-5, CAP-6).

use super::client::is_clean;
use super::{Kind, LONGEST_TAG, Session};
use crate::imap::Tls;
use crate::imap::capability;
use crate::imap::command::Form;
use crate::imap::grammar;
use crate::imap::identity::{self, SASL, Who};
use crate::imap::scan::{Announced, announced};
use crate::imap::selected::Selected;

/// What to do with the line that begins a command.
pub(super) enum Order {
    Pass(Kind),
    Refuse(String),
    /// It would have to be understood.
    TooLong,
    Move(Form, usize),
    StartTls,
    /// Not before earlier commands are answered.
    Wait,
    /// Not before what an earlier session of this user's left behind is finished (FAULT-4).
    Recover,
}

impl Session {
    /// WIRE-1 and WIRE-5: what may not go upstream whatever the command.
    pub(super) fn check_line(&self, text: &[u8], literal: Option<Announced>) -> Result<(), String> {
        if !is_clean(text) {
            return Err("BAD A command line must not hold NUL or a bare CR".into());
        }
        let Some((tag, _, _)) = grammar::command_head(text) else {
            return Err("BAD Expected a tag, a space and a command".into());
        };
        if tag.len() > LONGEST_TAG {
            return Err("BAD The tag is too long".into());
        }
        if self.pending.iter().any(|p| *p.tag.0 == *tag) {
            return Err("BAD A command with this tag is in progress".into());
        }
        match literal {
            Some(Announced { octets: None, .. }) => Err("BAD No literal can be that long".into()),
            Some(literal) if !self.literal_allowed(&literal) => {
                Err("BAD The mail server takes no such non-synchronising literal".into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn order(&self, text: &[u8], whole: bool) -> Order {
        let Some((_, verb, rest)) = grammar::command_head(text) else { return Order::Wait };
        let at = text.len() - rest.len();
        let verb = verb.to_ascii_uppercase();
        let understood = |order: Order| {
            if whole { order } else { Order::TooLong }
        };
        match &verb[..] {
            _ if !whole && !self.authenticated => Order::TooLong,
            b"MOVE" if self.capabilities.native_move => Order::Pass(Kind::NativeMove { began: self.now }),
            b"UID" if self.capabilities.native_move && is_move(rest) => {
                Order::Pass(Kind::NativeMove { began: self.now })
            }
            b"MOVE" => understood(Order::Move(Form::Sequence, at)),
            b"UID" if is_move(rest) => {
                // Behind more than one SP, "MOVE" is no argument and makes it malformed.
                let word = if rest.starts_with(b"  ") { 0 } else { b" MOVE".len() };
                understood(Order::Move(Form::Uid, at + word))
            }
            b"STARTTLS" => understood(self.order_starttls(rest)),
            b"LOGIN" => understood(self.order_login(Who::of_login(rest), SASL[0])),
            b"IDLE" | b"AUTHENTICATE" if announced(text).is_some() => {
                Order::Refuse("BAD This command takes no literal".into())
            }
            b"AUTHENTICATE" => understood(self.order_authenticate(rest)),
            b"ID" if self.introduces && !self.authenticated && pretends(rest) => {
                Order::Refuse("NO [CANNOT] imapmove itself says where its clients come from".into())
            }
            // Only a line that is whole is given again.
            b"SELECT" | b"EXAMINE" if whole && self.may_owe() => Order::Recover,
            b"SELECT" => Order::Pass(self.kind_select(rest, false)),
            b"EXAMINE" => Order::Pass(self.kind_select(rest, true)),
            b"CLOSE" | b"UNSELECT" => Order::Pass(Kind::Close),
            b"IDLE" => understood(Order::Pass(Kind::Idle)),
            b"LOGOUT" => Order::Pass(Kind::Logout),
            b"COMPRESS" | b"UNAUTHENTICATE" | b"RLIST" | b"RLSUB" => {
                Order::Refuse("NO [CANNOT] imapmove does not let this command through".into())
            }
            _ => Order::Pass(Kind::Other),
        }
    }

    fn order_starttls(&self, rest: &[u8]) -> Order {
        let offered =
            self.settings.client_tls == Tls::StartTls && !self.client_secured && !self.authenticated;
        match () {
            () if !self.pending.is_empty() => Order::Wait,
            () if !offered => Order::Refuse("BAD TLS cannot be started here".into()),
            () if !rest.is_empty() => Order::Refuse("BAD STARTTLS takes no arguments".into()),
            () => Order::StartTls,
        }
    }

    fn order_login(&self, who: Who, mechanism: &'static str) -> Order {
        match () {
            () if self.login_needs_tls() => Order::Refuse("NO [PRIVACYREQUIRED] Start TLS first".into()),
            () if !self.pending.is_empty() => Order::Wait,
            () => Order::Pass(Kind::Login { list_seen: false, who, mechanism }),
        }
    }

    fn order_authenticate(&self, rest: &[u8]) -> Order {
        let mechanism = rest.get(1..).unwrap_or_default();
        let mechanism = mechanism.split(|c| *c == b' ').next().unwrap_or_default();
        let named = !mechanism.is_empty() && mechanism.iter().all(|c| grammar::is_atom_char(*c));
        match () {
            () if !named => Order::Refuse("BAD Expected the name of a SASL mechanism".into()),
            () if !capability::mechanism_passes(mechanism, self.leg().terminates_tls) => {
                Order::Refuse("NO [CANNOT] This SASL mechanism does not work through imapmove".into())
            }
            () => self.order_login(Who::of_authenticate(rest), identity::method(rest)),
        }
    }

    fn kind_select(&self, rest: &[u8], read_only: bool) -> Kind {
        let mailbox = grammar::select_mailbox(rest);
        Kind::Select(Box::new(Selected { mailbox, read_only, ..Selected::default() }))
    }
}

/// Whether an ID may say where the client comes from. Servers that believe the gateway would believe that too: their
/// names for it begin with `x-`, and can hide in a literal or behind a backslash.
fn pretends(parameters: &[u8]) -> bool {
    let lower = parameters.to_ascii_lowercase();
    lower.contains(&b'\\') || lower.contains(&b'{') || memchr::memmem::find(&lower, b"\"x-").is_some()
}

fn is_move(rest: &[u8]) -> bool {
    let word = rest.trim_ascii_start().split(|c| *c == b' ').next();
    word.is_some_and(|word| word.eq_ignore_ascii_case(b"MOVE"))
}
