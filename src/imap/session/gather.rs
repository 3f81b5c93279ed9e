//! A MOVE, read whole: its mailbox may come as a literal (MOVE-1, MOVE-3).

use super::client::{Flow, Mode, is_clean};
use super::{Session, UNDERSTOOD};
use crate::imap::Limit;
use crate::imap::command::{Form, MoveCommand, Tag};
use crate::imap::scan::{Announced, without_line_end};

impl Session {
    pub(super) fn gathered_line(&mut self, line: &[u8], literal: Option<Announced>, end: bool) {
        let Mode::Gathering { tag, form, mut arguments } = std::mem::replace(&mut self.mode, Mode::Command)
        else {
            return;
        };
        let text = without_line_end(line);
        arguments.extend_from_slice(text);
        self.arguments.read(text);
        let fits = end && arguments.len() <= UNDERSTOOD;
        if !fits {
            self.met(Limit::Understood);
        }
        if !fits || !is_clean(text) || literal.is_some_and(|l| !self.literal_allowed(&l)) {
            return self.refuse(&tag.0, "BAD The command is too long or malformed", literal, end);
        }
        self.gather(tag, form, arguments, literal);
    }

    /// A MOVE waits until every earlier command has its reply, and is read whole (MOVE-1, MOVE-3).
    pub(super) fn begin_move(
        &mut self,
        tag: Tag,
        form: Form,
        arguments: &[u8],
        literal: Option<Announced>,
    ) -> Flow {
        if !self.pending.is_empty() {
            return Flow::Hold;
        }
        self.tags.avoid(&tag);
        self.gather(tag, form, arguments.to_vec(), literal);
        Flow::On
    }

    fn gather(&mut self, tag: Tag, form: Form, mut arguments: Vec<u8>, literal: Option<Announced>) {
        let Some(announced) = literal else {
            let request = MoveCommand::parse(form, &arguments);
            return self.start_move(tag, request);
        };
        let octets = announced.octets.unwrap_or(u64::MAX);
        if octets > (UNDERSTOOD - arguments.len().min(UNDERSTOOD)) as u64 {
            self.met(Limit::Understood);
            return self.refuse(&tag.0, "BAD The mailbox name is too long", literal, true);
        }
        if announced.synchronising {
            self.say(b"+ Ready for the mailbox name\r\n");
        }
        arguments.extend_from_slice(b"\r\n");
        self.expect_literal(octets);
        self.mode = Mode::Gathering { tag, form, arguments };
    }
}
