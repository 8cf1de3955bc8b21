//! Eight seeds, on every run of the tests; `cargo run -p sim -- --seeds 500` plays more.

#[test]
fn eight_seeds_hold_every_invariant() {
    let failed: Vec<String> = (0..8)
        .map(sim::run)
        .filter_map(|report| {
            let violation = report.violation?;
            Some(format!("seed {}: {}: {} [{}]", report.seed, violation.invariant, violation.text, report.summary))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
