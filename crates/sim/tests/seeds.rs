//! Twenty seeds, on every run of the tests; `cargo run -p sim -- --seeds 500` plays more.

#[track_caller]
fn hold_every_invariant(seeds: std::ops::Range<u64>) {
    let failed: Vec<String> = seeds
        .map(sim::run)
        .filter_map(|report| {
            let violation = report.violation?;
            Some(format!("seed {}: {}: {} [{}]", report.seed, violation.invariant, violation.text, report.summary))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_first_seeds_hold_every_invariant() {
    hold_every_invariant(0..5);
}

#[test]
fn the_next_seeds_hold_every_invariant() {
    hold_every_invariant(5..10);
}

#[test]
fn further_seeds_hold_every_invariant() {
    hold_every_invariant(10..15);
}

#[test]
fn the_last_seeds_hold_every_invariant() {
    hold_every_invariant(15..20);
}
