//! Every nom parser of the core, each under its ABNF (RFC 9051 section 9 unless it says otherwise).
//!
//! They see whole lines only: "complete", never streaming.

use super::mailbox::{Mailbox, Wire};
use super::sequence::{Collected, End, SequenceSet};
use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case, take, take_till, take_while, take_while1};
use nom::character::complete::{char, digit1};
use nom::combinator::{all_consuming, map, map_opt, opt, recognize, value, verify};
use nom::multi::{fold_many0, separated_list1};
use nom::sequence::{delimited, preceded, separated_pair};
use nom::{IResult, Parser};

type Parsed<'a, T> = IResult<&'a [u8], T>;

/// `ATOM-CHAR = <any CHAR except atom-specials>`
pub fn is_atom_char(c: u8) -> bool {
    c.is_ascii_graphic() && !b"(){%*\"\\]".contains(&c)
}

/// `ASTRING-CHAR = ATOM-CHAR / resp-specials`
fn is_astring_char(c: u8) -> bool {
    is_atom_char(c) || c == b']'
}

/// `tag = 1*<any ASTRING-CHAR except "+">`
pub fn command_tag(i: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(|c| is_astring_char(c) && c != b'+')(i)
}

/// `command = tag SP (command-any / ...)`: the tag and the verb, which ends at SP or at the end of the line.
pub fn command_head(i: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (rest, (tag, verb)) =
        separated_pair(command_tag, char(' '), take_while1(is_atom_char)).parse(i).ok()?;
    matches!(rest.first(), None | Some(b' ')).then_some((tag, verb, rest))
}

/// `number = 1*DIGIT`, 32 bits.
pub fn number(i: &[u8]) -> Parsed<'_, u32> {
    map_opt(digit1, |digits| std::str::from_utf8(digits).ok()?.parse().ok()).parse(i)
}

/// `nz-number = digit-nz *DIGIT`
pub fn nz_number(i: &[u8]) -> Parsed<'_, u32> {
    verify(number, |n| *n > 0).parse(i)
}

/// `seq-number = nz-number / "*"`
fn seq_number(i: &[u8]) -> Parsed<'_, End> {
    alt((map(nz_number, End::Number), value(End::Last, char('*')))).parse(i)
}

/// `sequence-set = (seq-number / seq-range) ["," sequence-set] / seq-last-command` (RFC 5182: `$`)
fn sequence_set(i: &[u8]) -> Parsed<'_, SequenceSet> {
    let item = map((seq_number, opt(preceded(char(':'), seq_number))), |(a, b)| (a, b.unwrap_or(a)));
    alt((value(SequenceSet::Saved, char('$')), map(separated_list1(char(','), item), SequenceSet::Ranges)))
        .parse(i)
}

/// `quoted = DQUOTE *QUOTED-CHAR DQUOTE`, 8-bit octets too; the octets that it stands for.
fn quoted(i: &[u8]) -> Parsed<'_, Vec<u8>> {
    let octet = alt((
        preceded(char('\\'), verify(take(1usize), |c: &[u8]| b"\"\\".contains(&c[0]))),
        verify(take(1usize), |c: &[u8]| !b"\"\\\r\n\0".contains(&c[0])),
    ));
    let octets = fold_many0(octet, Vec::new, |mut all, c: &[u8]| {
        all.extend_from_slice(c);
        all
    });
    delimited(char('"'), octets, char('"')).parse(i)
}

/// `literal = "{" number ["+"] "}" CRLF *CHAR8`, here with its octets behind it.
fn literal(i: &[u8]) -> Parsed<'_, Vec<u8>> {
    let (i, n) = delimited(char('{'), number, (opt(char('+')), tag("}\r\n"))).parse(i)?;
    map(
        verify(take(n as usize), |octets: &[u8]| !octets.iter().any(|c| b"\r\n\0".contains(c))),
        <[u8]>::to_vec,
    )
    .parse(i)
}

/// `mailbox = "INBOX" / astring`, with 8-bit octets let through as servers do.
pub fn mailbox(i: &[u8]) -> Parsed<'_, Mailbox> {
    let atom = take_while1(|c: u8| is_astring_char(c) || c >= 0x80);
    alt((
        map(atom, |raw: &[u8]| Mailbox { octets: raw.to_vec(), wire: Wire::AsSent(raw.to_vec()) }),
        map_wire(quoted),
        map(literal, Mailbox::from_literal),
    ))
    .parse(i)
}

fn map_wire<'a>(
    parser: impl Fn(&'a [u8]) -> Parsed<'a, Vec<u8>>,
) -> impl Parser<&'a [u8], Output = Mailbox, Error = nom::error::Error<&'a [u8]>> {
    move |i: &'a [u8]| {
        let (rest, octets) = parser(i)?;
        let raw = i[..i.len() - rest.len()].to_vec();
        Ok((rest, Mailbox { octets, wire: Wire::AsSent(raw) }))
    }
}

/// `move = "MOVE" SP sequence-set SP mailbox` (RFC 6851), from behind the verb to the end of the command.
pub fn move_arguments(i: &[u8]) -> Option<(SequenceSet, Mailbox)> {
    let both = preceded(char(' '), separated_pair(sequence_set, char(' '), mailbox));
    all_consuming(both).parse(i).ok().map(|(_, both)| both)
}

/// `select = "SELECT" SP mailbox [select-params]`, from behind the verb.
pub fn select_mailbox(i: &[u8]) -> Option<Mailbox> {
    let (rest, mailbox) = preceded(char(' '), mailbox).parse(i).ok()?;
    matches!(rest.first(), None | Some(b' ')).then_some(mailbox)
}

/// `userid = astring`, from behind the verb of LOGIN up to where the password begins.
pub fn login_user(i: &[u8]) -> Option<Vec<u8>> {
    let (rest, user) = preceded(char(' '), mailbox).parse(i).ok()?;
    matches!(rest.first(), None | Some(b' ')).then_some(user.octets)
}

/// `resp-text-code = atom [SP 1*<any TEXT-CHAR except "]">]`: its name and its argument.
pub fn response_code(i: &[u8]) -> Parsed<'_, (&[u8], &[u8])> {
    let name = take_while1(|c| c != b' ' && c != b']');
    let argument = map(opt(preceded(char(' '), take_till(|c| c == b']'))), Option::unwrap_or_default);
    delimited(char('['), (name, argument), char(']')).parse(i)
}

/// `uniqueid / uid-range` (RFC 4315), the lower end first.
fn uid_range(i: &[u8]) -> Parsed<'_, (u32, u32)> {
    map((nz_number, opt(preceded(char(':'), nz_number))), |(a, b)| {
        let b = b.unwrap_or(a);
        (a.min(b), a.max(b))
    })
    .parse(i)
}

/// `uid-set = (uniqueid / uid-range) ["," uid-set]` (RFC 4315), in the order of the text.
pub fn uid_set(i: &[u8]) -> Parsed<'_, Vec<(u32, u32)>> {
    separated_list1(char(','), uid_range).parse(i)
}

/// A [`uid_set`] range by range, as it may be too long to stand in memory twice; `None` for what is none.
pub fn uid_ranges(i: &[u8]) -> impl Iterator<Item = Option<(u32, u32)>> {
    i.split(|c| *c == b',').map(|range| all_consuming(uid_range).parse(range).ok().map(|(_, range)| range))
}

/// `resp-code-copy = "COPYUID" SP nz-number SP uid-set SP uid-set` (RFC 4315), from behind the name; the sets are for
/// [`uid_ranges`].
pub fn copyuid(i: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let word = || preceded(char(' '), take_while1(|c| c != b' '));
    all_consuming((nz_number, word(), word())).parse(i).ok().map(|(_, all)| all)
}

/// `"VANISHED" [SP "(EARLIER)"] SP known-uids` (RFC 7162), from behind the name: earlier, and the UIDs.
pub fn vanished(i: &[u8]) -> Option<(bool, Vec<(u32, u32)>)> {
    let earlier = map(opt(tag_no_case(" (EARLIER)")), |earlier| earlier.is_some());
    all_consuming((earlier, preceded(char(' '), uid_set))).parse(i).ok().map(|(_, all)| all)
}

/// `"SEARCH" *(SP nz-number)`, from behind the name; what may follow in parentheses (`(MODSEQ n)`, RFC 7162) is
/// passed over. `None` if anything else stands there: then it does not show what is missing in it.
pub fn search_result(i: &[u8]) -> Option<Collected> {
    let words = i.split(|c| *c == b' ').filter(|word| !word.is_empty());
    let mut found = Collected::default();
    for word in words.take_while(|word| !word.starts_with(b"(")) {
        found.push(all_consuming(nz_number).parse(word).ok()?.1);
    }
    Some(found)
}

/// What a FETCH response says of a message, if it says nothing but UID, FLAGS and MODSEQ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchedState {
    /// `UID n`.
    pub uid: Option<u32>,
    /// It says FLAGS or MODSEQ too.
    pub more: bool,
}

/// `"(" msg-att-dynamic / msg-att-uid ... ")"`: UID, FLAGS and MODSEQ (RFC 7162), in any order and case.
pub fn fetched_state(i: &[u8]) -> Option<FetchedState> {
    let uid = map(preceded(tag_no_case("UID "), nz_number), Some);
    let flags = (tag_no_case("FLAGS ("), take_while(|c| c != b'(' && c != b')'), char(')'));
    let modseq = (tag_no_case("MODSEQ ("), digit1, char(')'));
    let item = alt((uid, value(None, recognize(flags)), value(None, recognize(modseq))));
    let items = delimited(char('('), separated_list1(char(' '), item), char(')'));
    let (_, items) = all_consuming(items).parse(i).ok()?;
    Some(FetchedState {
        uid: items.iter().flatten().next().copied(),
        more: items.iter().any(Option::is_none),
    })
}

/// What a message is recognised by: what COPY does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description<'a> {
    pub uid: u32,
    pub size: &'a [u8],
    /// INTERNALDATE as it was written.
    pub date: &'a [u8],
    pub flags: Vec<&'a [u8]>,
}

/// The answer to `FETCH (UID FLAGS INTERNALDATE RFC822.SIZE)`, in any order and case; MODSEQ is passed over.
pub fn description(i: &[u8]) -> Option<Description<'_>> {
    enum Item<'a> {
        Uid(u32),
        Size(&'a [u8]),
        Date(&'a [u8]),
        Flags(&'a [u8]),
        Other,
    }
    let uid = map(preceded(tag_no_case("UID "), nz_number), Item::Uid);
    let size = map(preceded(tag_no_case("RFC822.SIZE "), digit1), Item::Size);
    let quoted_date = delimited(char('"'), take_till(|c| c == b'"'), char('"'));
    let date = map(preceded(tag_no_case("INTERNALDATE "), quoted_date), Item::Date);
    let list = delimited(char('('), take_while(|c| c != b'(' && c != b')'), char(')'));
    let flags = map(preceded(tag_no_case("FLAGS "), list), Item::Flags);
    let modseq = value((), (tag_no_case("MODSEQ ("), digit1, char(')')));
    let item = alt((uid, size, date, flags, map(modseq, |()| Item::Other)));
    let items = delimited(char('('), separated_list1(char(' '), item), char(')'));
    let (_, items) = all_consuming(items).parse(i).ok()?;
    let (mut uid, mut size, mut date, mut flags) = (None, None, None, None);
    for item in items {
        match item {
            Item::Uid(n) => uid = Some(n),
            Item::Size(n) => size = Some(n),
            Item::Date(text) => date = Some(text),
            Item::Flags(list) => flags = Some(list.split(|c| *c == b' ').filter(|f| !f.is_empty()).collect()),
            Item::Other => {}
        }
    }
    Some(Description { uid: uid?, size: size?, date: date?, flags: flags? })
}

/// `myrights-response = "MYRIGHTS" SP mailbox SP rights` (RFC 4314): the rights, its last word.
pub fn rights(line: &[u8]) -> &[u8] {
    let word = line.trim_ascii_end().rsplit(|c| *c == b' ').next().unwrap_or_default();
    word.strip_prefix(b"\"").and_then(|w| w.strip_suffix(b"\"")).unwrap_or(word)
}

/// `message-data = nz-number SP ("EXPUNGE" / ("FETCH" SP msg-att))` and the like: number, word, rest.
pub fn numbered(i: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (rest, (n, word)) = separated_pair(number, char(' '), take_while1(is_atom_char)).parse(i).ok()?;
    Some((n, word, rest))
}
