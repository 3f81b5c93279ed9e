//! Whether what can be large costs as it grows, and no more: twice as much, twice the time.

use crate::table::{Goal, Table, Unit};
use imapmove_bench::conversation::{Conversation, Exchange, Move, Pipeline};
use rustix::time::{ClockId, clock_gettime};
use std::io;

/// Of so many runs the fastest one counts: what else the machine does, also to its caches, only makes them slower.
const RUNS: usize = 10;

/// A row's title, how much there is at first, and how it is made: then twice as much is.
type Row = (&'static str, u32, fn(u32) -> Box<dyn Conversation>);
const ROWS: [Row; 3] = [
    ("a MOVE of 50,000 UIDs without ranges, and twice as many", 50_000, |n| Box::new(Move::new(n, 2))),
    ("500,000 results of a SEARCH, and twice as many", 500_000, |n| Box::new(Exchange::search(n))),
    ("5,000 commands in one go, and twice as many", 5_000, |n| Box::new(Pipeline::new(n as usize))),
];

/// Adds a row for each thing that can be large.
pub fn measure(table: &mut Table) {
    for (title, size, large) in ROWS {
        let (once, twice) = (fastest(&*large(size)), fastest(&*large(2 * size)));
        let goal = Some(Goal { must: 2.5, moonshot: 2.0 });
        // The ratio is that to the second column.
        table.add(title, Unit::Ratio(" ms"), goal, "twice", twice);
        table.add(title, Unit::Ratio(" ms"), goal, "once", once);
    }
}

/// Fails if one of them grows faster: that is a fault, whatever the machine.
pub fn check(table: &Table) -> io::Result<()> {
    match ROWS.iter().find(|row| table.misses(row.0)) {
        Some(row) => Err(io::Error::other(format!("{}: that costs more than it grows", row.0))),
        None => Ok(()),
    }
}

/// Milliseconds of the CPU's: what else runs on the machine is not counted.
fn fastest(conversation: &dyn Conversation) -> f64 {
    let time = || {
        let mut talk = conversation.session();
        let begun = clock_gettime(ClockId::ThreadCPUTime);
        conversation.play(&mut talk);
        let took = clock_gettime(ClockId::ThreadCPUTime) - begun;
        took.tv_sec as f64 * 1e3 + took.tv_nsec as f64 / 1e6
    };
    (0..RUNS).map(|_| time()).fold(f64::INFINITY, f64::min)
}
