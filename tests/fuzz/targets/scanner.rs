//! The scanner gives back every octet, in lines and literals that do not depend on how the octets arrived.
#![no_main]

#[allow(dead_code, unused_imports)]
#[path = "../../../src/imap/mod.rs"]
mod imap;

use imap::scan::{Piece, Scanner, announced};
use libfuzzer_sys::fuzz_target;

/// What was seen: the octets of each line (in however many pieces) and of each literal.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    lines: Vec<(Vec<u8>, bool)>,
    octets: Vec<u8>,
}

fn scan(data: &[u8], cut: usize) -> Seen {
    let (mut scanner, mut seen, mut from) = (Scanner::default(), Seen::default(), 0);
    for to in (0..data.len()).step_by(cut).chain([data.len()]) {
        while let Some(piece) = scanner.next(&data[from..to], |head| 8192 + usize::from(head[0]) * 64) {
            assert!(piece.len() > 0);
            from += piece.len();
            let end = match piece {
                Piece::Line(line) => {
                    seen.lines.push((line.to_vec(), true));
                    Some(line.to_vec())
                }
                Piece::Head(head) => {
                    seen.lines.push((head.to_vec(), false));
                    None
                }
                Piece::More(part) | Piece::Rest(part) => {
                    let line = seen.lines.last_mut().expect("a head came first");
                    line.0.extend_from_slice(part);
                    matches!(piece, Piece::Rest(_)).then(|| scanner.take_line_end())
                }
                Piece::Octets(octets) => {
                    seen.octets.extend_from_slice(octets);
                    None
                }
            };
            if let Some(octets) = end.and_then(|end| announced(&end)).and_then(|literal| literal.octets) {
                scanner.expect(octets);
            }
        }
    }
    seen
}

fuzz_target!(|data: &[u8]| {
    let whole = scan(data, data.len().max(1));
    let cut = 1 + data.first().map_or(0, |c| usize::from(*c));
    assert_eq!(whole, scan(data, cut));
    assert!(whole.octets.len() + whole.lines.iter().map(|(line, _)| line.len()).sum::<usize>() <= data.len());
});
