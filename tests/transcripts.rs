//! Plays the golden conversations of `tests/transcripts/` against the core.
//!
//! One file, one behaviour. `C>` and `S>` speak to the gateway, `>S` and `>C` are what it must say; the notation is
//! explained in `tests/transcripts/README.md`. Every file is played whole and with its input cut into pieces of 1, 2
//! and 7 octets, and once more with the literals moved across unread.

#[path = "support/transcript.rs"]
mod transcript;

#[path = "support/player.rs"]
mod player;

use player::{Cut, Player};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use transcript::Transcript;

/// Below this many conversations something was lost.
const AT_LEAST: usize = 80;

/// Every rule that a conversation has to show, by family: the first and the last number.
const RULES: [(&str, u32, u32); 5] =
    [("CAP", 1, 8), ("WIRE", 1, 11), ("MOVE", 1, 16), ("SRV", 0, 7), ("FAULT", 1, 5)];

#[test]
fn every_conversation_goes_as_written() {
    let (played, failures) = play_all(&transcripts());
    println!("{played} conversations, {} failed", failures.len());
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

#[test]
fn every_rule_has_a_conversation() {
    let shown: BTreeSet<String> = transcripts().into_iter().flat_map(|t| t.rules).collect();
    let known: BTreeSet<String> = rules().into_iter().collect();
    let unshown: Vec<&String> = known.difference(&shown).collect();
    let unknown: Vec<&String> = shown.difference(&known).collect();
    println!("rules without a conversation: {unshown:?}");
    assert!(unshown.is_empty(), "rules without a conversation: {unshown:?}");
    assert!(unknown.is_empty(), "conversations name rules that do not exist: {unknown:?}");
}

#[test]
fn no_conversation_was_lost() {
    let count = transcripts().len();
    assert!(count >= AT_LEAST, "{count} conversations, expected at least {AT_LEAST}");
}

/// Plays each one in every cut that it asks for: how many there are, and what went wrong first in each.
fn play_all(transcripts: &[Transcript]) -> (usize, Vec<String>) {
    let failures = transcripts.iter().filter_map(|t| play(t).err()).collect();
    (transcripts.len(), failures)
}

fn play(transcript: &Transcript) -> Result<(), String> {
    for cut in Cut::ALL.into_iter().filter(|cut| transcript.whole_only.is_none() || *cut == Cut::Whole) {
        let played = std::panic::catch_unwind(|| {
            Player::new(transcript.settings.clone(), cut).play(&transcript.turns)
        });
        played
            .unwrap_or_else(|_| Err("the core panicked".into()))
            .map_err(|what| format!("{} ({cut}): {what}", transcript.name))?;
    }
    Ok(())
}

/// All conversations, by name; a file that cannot be read as one fails the test.
fn transcripts() -> Vec<Transcript> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the folder is part of the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "imap"))
        .collect();
    files.sort();
    files.iter().map(|file| Transcript::read(file).unwrap_or_else(|what| panic!("{what}"))).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

fn rules() -> Vec<String> {
    RULES
        .iter()
        .flat_map(|(family, first, last)| (*first..=*last).map(move |n| format!("{family}-{n}")))
        .collect()
}

/// The player itself must be able to fail.
mod the_player {
    use super::*;

    fn play_text(text: &str) -> Result<(), String> {
        play(&Transcript::parse("inline", &format!("# WIRE-5: inline\n{text}"), &folder())?)
    }

    #[test]
    fn reports_a_wrong_line() {
        let what = play_text("S> * OK hello\n>C * OK hullo\n").expect_err("must fail");
        assert!(what.contains("inline:3") && what.contains("hullo") && what.contains("hello"), "{what}");
    }

    #[test]
    fn reports_a_line_too_many() {
        let what = play_text("S> * OK hello\n").expect_err("must fail");
        assert!(what.contains("nothing more to the client"), "{what}");
    }

    #[test]
    fn reports_a_line_too_few() {
        let what = play_text("S>C * OK hello\n>C * OK more\n").expect_err("must fail");
        assert!(what.contains("got \"\""), "{what}");
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        assert!(play_text("S< * OK hello\n").expect_err("must fail").contains("inline:2"));
        assert!(play_text("!! jump\n").expect_err("must fail").contains("jump"));
        assert!(play_text("#: colour = red\n").expect_err("must fail").contains("colour"));
    }
}
