//! What the server counts, under the names that upstream's usual server counts it by.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the durations' buckets in microseconds: doubling from a quarter of a millisecond.
const BUCKETS: [u64; 16] = {
    let mut bounds = [250; 16];
    let mut index = 1;
    while index < 16 {
        bounds[index] = bounds[index - 1] * 2;
        index += 1;
    }
    bounds
};

/// Types that are told apart; all others are "other", so that clients cannot make up labels.
const TYPES: [&str; 13] =
    ["A", "AAAA", "CNAME", "DS", "DNSKEY", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "SVCB", "TXT"];

/// One question, as far as it is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// `udp` or `tcp`.
    pub(super) transport: &'static str,
    pub(super) ipv6: bool,
    /// The record type's name.
    pub(super) kind: &'a str,
    /// The cluster's domain, or the root for all else.
    pub(super) zone: &'a str,
    /// The answer's code.
    pub(super) code: &'a str,
    pub(super) took: Duration,
}

#[derive(Default)]
struct Counts {
    requests: BTreeMap<String, u64>,
    responses: BTreeMap<String, u64>,
    durations: BTreeMap<String, ([u64; 16], u64, Duration)>,
    cache: BTreeMap<&'static str, u64>,
}

/// The counts of one server.
#[derive(Default)]
pub struct Metrics(Mutex<Counts>);

impl Metrics {
    pub(super) fn count(&self, seen: Seen<'_>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let server = "server=\"dns://:53\"";
        let (zone, family) = (seen.zone, if seen.ipv6 { 2 } else { 1 });
        let kind = TYPES.iter().find(|known| **known == seen.kind).unwrap_or(&"other");
        let labels = format!(
            "family=\"{family}\",proto=\"{}\",{server},type=\"{kind}\",view=\"\",zone=\"{zone}\"",
            seen.transport
        );
        *counts.requests.entry(labels).or_default() += 1;
        let plugin = if zone == "." { "forward" } else { "kubernetes" };
        let labels = format!("plugin=\"{plugin}\",rcode=\"{}\",{server},view=\"\",zone=\"{zone}\"", seen.code);
        *counts.responses.entry(labels).or_default() += 1;
        let (buckets, count, sum) = counts.durations.entry(format!("{server},view=\"\",zone=\"{zone}\"")).or_default();
        let micros = u64::try_from(seen.took.as_micros()).unwrap_or(u64::MAX);
        BUCKETS
            .iter()
            .zip(buckets.iter_mut())
            .filter(|(bound, _)| micros <= **bound)
            .for_each(|(_, bucket)| *bucket += 1);
        *count += 1;
        *sum += seen.took;
    }

    /// Counts a question to the cache: `hits` or `misses`.
    pub(super) fn count_cache(&self, outcome: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).cache.entry(outcome).or_default() += 1;
    }

    /// All of them in Prometheus' text form.
    pub fn text(&self) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        for (name, help, lines) in [
            (
                "coredns_dns_requests_total",
                "Counter of DNS requests made per zone, protocol and family.",
                &counts.requests,
            ),
            ("coredns_dns_responses_total", "Counter of response status codes.", &counts.responses),
        ] {
            head(&mut out, name, help, "counter");
            lines.iter().for_each(|(labels, count)| line(&mut out, name, labels, count));
        }
        for (name, outcome) in [("coredns_cache_hits_total", "hits"), ("coredns_cache_misses_total", "misses")] {
            head(&mut out, name, &format!("The count of cache {outcome}."), "counter");
            let labels = "server=\"dns://:53\",view=\"\",zones=\".\"";
            line(&mut out, name, labels, counts.cache.get(outcome).unwrap_or(&0));
        }
        let name = "coredns_dns_request_duration_seconds";
        head(&mut out, name, "Histogram of the time (in seconds) each request took per zone.", "histogram");
        for (labels, (buckets, count, sum)) in &counts.durations {
            for (bound, bucket) in BUCKETS.iter().zip(buckets) {
                let labels = format!("{labels},le=\"{}\"", *bound as f64 / 1e6);
                line(&mut out, &format!("{name}_bucket"), &labels, bucket);
            }
            line(&mut out, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), count);
            line(&mut out, &format!("{name}_sum"), labels, &sum.as_secs_f64());
            line(&mut out, &format!("{name}_count"), labels, count);
        }
        out
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to memory");
}

fn line(out: &mut String, name: &str, labels: &str, value: &impl std::fmt::Display) {
    writeln!(out, "{name}{{{labels}}} {value}").expect("writing to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_zone_transport_and_code_and_no_label_is_made_up() {
        let metrics = Metrics::default();
        let seen = |kind, zone, code| Seen {
            transport: "udp",
            ipv6: false,
            kind,
            zone,
            code,
            took: Duration::from_micros(300),
        };
        metrics.count(seen("A", "cluster.local.", "NOERROR"));
        metrics.count(seen("A", "cluster.local.", "NXDOMAIN"));
        metrics.count(seen("TYPE4711", ".", "NOERROR"));
        let text = metrics.text();
        for expected in [
            r#"coredns_dns_requests_total{family="1",proto="udp",server="dns://:53",type="A",view="",zone="cluster.local."} 2"#,
            r#"coredns_dns_requests_total{family="1",proto="udp",server="dns://:53",type="other",view="",zone="."} 1"#,
            r#"coredns_dns_responses_total{plugin="kubernetes",rcode="NXDOMAIN",server="dns://:53",view="",zone="cluster.local."} 1"#,
            r#"coredns_dns_request_duration_seconds_bucket{server="dns://:53",view="",zone=".",le="0.00025"} 0"#,
            r#"coredns_dns_request_duration_seconds_bucket{server="dns://:53",view="",zone=".",le="0.0005"} 1"#,
            r#"coredns_cache_hits_total{server="dns://:53",view="",zones="."} 0"#,
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\n{text}");
        }
    }
}
