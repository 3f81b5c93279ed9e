//! What the core costs without a socket: the scanner, the relay of what passes, and a MOVE.

use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use imapmove_bench::conversation::{Conversation, Exchange, Move, Pipeline, scan};
use std::fmt::Write;
use std::time::Duration;

fn scanner(c: &mut Criterion) {
    let literals = Exchange::fetch(100, 100_000);
    let mut group = c.benchmark_group("scanner");
    // Not in octets, as what a literal holds is not looked at, here and in the relay.
    group.throughput(Throughput::Elements(100));
    group.bench_function("FETCH of 100 messages of 100 kB", |b| b.iter(|| scan(literals.answer())));
    let lines = (1..=100_000).fold(String::new(), |mut lines, n| {
        let _ = write!(lines, "* {n} FETCH (UID {n} FLAGS (\\Seen))\r\n");
        lines
    });
    let pipeline = Pipeline::new(10_000);
    for (name, octets) in
        [("100,000 short lines", lines.as_bytes()), ("10,000 pipelined commands", pipeline.said())]
    {
        group.throughput(Throughput::BytesDecimal(octets.len() as u64));
        group.bench_function(name, |b| b.iter(|| scan(octets)));
    }
}

fn relay(c: &mut Criterion) {
    let mut group = c.benchmark_group("relay");
    for (name, size, count) in
        [("100 messages of 100 kB", 100_000, 100), ("3,000 messages of 3 kB", 3_000, 3_000)]
    {
        let fetch = Exchange::fetch(count, size);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(format!("FETCH of {name}"), |b| play(b, &fetch));
    }
    group.throughput(Throughput::Elements(1_000_000));
    let search = Exchange::search(1_000_000);
    group.bench_function("SEARCH with 1,000,000 results", |b| play(b, &search));
    group.throughput(Throughput::Elements(10_000));
    let pipeline = Pipeline::new(10_000);
    group.bench_function("10,000 pipelined commands", |b| play(b, &pipeline));
}

fn translation(c: &mut Criterion) {
    let mut group = c.benchmark_group("UID MOVE");
    for messages in [1, 100, 10_000, 100_000] {
        group.throughput(Throughput::Elements(messages.into()));
        for (name, apart) in [("one range", 1), ("every second UID", 2)] {
            let scripted = Move::new(messages, apart);
            group.bench_function(BenchmarkId::new(name, messages), |b| play(b, &scripted));
        }
    }
}

fn play(b: &mut Bencher, conversation: &dyn Conversation) {
    b.iter_batched_ref(|| conversation.session(), |talk| conversation.play(talk), BatchSize::SmallInput);
}

criterion_group! {
    name = core;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = scanner, relay, translation
}
criterion_main!(core);
