//! What an agent says at `/metrics/resource`, and what is used between two times that it says it. Pure.

use std::collections::BTreeMap;

/// What is used over less than this is noise.
const WINDOW_NANOSECONDS_MIN: i64 = 900_000_000;

/// What was counted of one container or of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// When counting began, in nanoseconds since 1970; 0 where that is not told.
    pub started: i64,
    /// When it was counted.
    pub at: i64,
    pub cpu_nanoseconds: u64,
    pub memory_bytes: u64,
}

/// Points by namespace and name of the pod, then by the container's name.
pub(crate) type Pods = BTreeMap<(String, String), BTreeMap<String, Point>>;

/// All that an agent said at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub node: Option<Point>,
    pub pods: Pods,
}

/// What was used in a window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// Billionths of a core.
    pub nanocores: u64,
    pub memory_bytes: u64,
    /// The end of the window, in nanoseconds since 1970.
    pub at: i64,
    /// Its length, in nanoseconds.
    pub window: i64,
}

impl Used {
    /// What was used from an earlier point to the last; since the start, where there is no earlier point of the same run. None
    /// where the time between is too short to tell.
    pub(crate) fn between(before: Option<&Point>, last: &Point) -> Option<Used> {
        let since_start = Point { at: last.started, cpu_nanoseconds: 0, ..*last };
        let of_this_run = |before: &&Point| before.at >= last.started && before.cpu_nanoseconds <= last.cpu_nanoseconds;
        let from = match before.filter(of_this_run) {
            Some(before) => before,
            None if last.started > 0 => &since_start,
            None => return None,
        };
        let window = last.at - from.at;
        if window < WINDOW_NANOSECONDS_MIN {
            return None;
        }
        let used = u128::from(last.cpu_nanoseconds - from.cpu_nanoseconds) * 1_000_000_000;
        let nanocores = u64::try_from(used / u128::try_from(window).ok()?).ok()?;
        Some(Used { nanocores, memory_bytes: last.memory_bytes, at: last.at, window })
    }
}

/// What was said of one container or node so far: whoever lacks one of the two amounts is not measured.
#[derive(Clone, Copy, Default)]
struct Draft {
    started: i64,
    at: i64,
    cpu: Option<u64>,
    memory: Option<u64>,
}

impl Draft {
    fn point(self) -> Option<Point> {
        Some(Point { started: self.started, at: self.at, cpu_nanoseconds: self.cpu?, memory_bytes: self.memory? })
    }

    fn learn(&mut self, metric: &str, value: f64, at: i64) {
        match metric {
            "cpu_usage_seconds_total" => {
                self.cpu = Some((value * 1e9).round() as u64);
                // The rate goes by the moment of this count.
                self.at = at;
            }
            "memory_working_set_bytes" => self.memory = Some(value as u64),
            "start_time_seconds" => self.started = (value * 1e9).round() as i64,
            _ => {}
        }
    }
}

impl Sample {
    /// Reads Prometheus' text format. Lines without a time were counted `now`; what cannot be read is no line of ours.
    pub(crate) fn parse(text: &str, now: i64) -> Sample {
        let mut node = Draft::default();
        let mut pods: BTreeMap<(String, String), BTreeMap<String, Draft>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')).filter_map(Line::read) {
            let at = line.milliseconds.map_or(now, |milliseconds| milliseconds.saturating_mul(1_000_000));
            if let Some(metric) = line.name.strip_prefix("node_") {
                node.learn(metric, line.value, at);
            } else if let Some(metric) = line.name.strip_prefix("container_") {
                let label = |name: &str| line.label(name).map(ToOwned::to_owned);
                let (Some(pod), Some(namespace), Some(container)) =
                    (label("pod"), label("namespace"), label("container"))
                else {
                    continue;
                };
                let containers = pods.entry((namespace, pod)).or_default();
                containers.entry(container).or_default().learn(metric, line.value, at);
            }
        }
        let points = |drafts: BTreeMap<String, Draft>| {
            let points = drafts.into_iter().filter_map(|(name, draft)| Some((name, draft.point()?)));
            points.collect::<BTreeMap<_, _>>()
        };
        let pods = pods.into_iter().map(|(pod, drafts)| (pod, points(drafts)));
        Sample { node: node.point(), pods: pods.filter(|(_, points)| !points.is_empty()).collect() }
    }
}

/// `name{label="value",…} number [milliseconds]`
struct Line<'t> {
    name: &'t str,
    labels: Vec<(&'t str, String)>,
    value: f64,
    milliseconds: Option<i64>,
}

impl<'t> Line<'t> {
    fn read(line: &'t str) -> Option<Line<'t>> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once("=\"")?;
                let (value, after) = quoted(after)?;
                labels.push((label.trim_start_matches(',').trim(), value));
                rest = after;
            }
            rest = &rest[1..];
        }
        let mut words = rest.split_whitespace();
        let value: f64 = words.next()?.parse().ok()?;
        let milliseconds = words.next().and_then(|word| word.parse().ok());
        value.is_finite().then_some(Line { name, labels, value, milliseconds })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value.as_str())
    }
}

/// A label's value up to its closing quote, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn reads_what_agents_say() {
        let text = "# HELP container_cpu_usage_seconds_total x\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 2000\n\
            container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 4096 2000\n\
            container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1.25\n\
            container_cpu_usage_seconds_total{container=\"half\",namespace=\"n\",pod=\"p\"} 1.5 2000\n\
            container_cpu_usage_seconds_total{container=\"a\\\"}b\",namespace=\"n\",pod=\"q\"} 1\n\
            container_memory_working_set_bytes{container=\"a\\\"}b\",namespace=\"n\",pod=\"q\"} 1e3\n\
            container_memory_working_set_bytes{container=\"unended} 7\n\
            pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 9 2000\n\
            node_cpu_usage_seconds_total 100.25 2001\nnode_memory_working_set_bytes 7e+06 2001\nnode_swap_usage_bytes NaN\n";
        let sample = Sample::parse(text, 5);
        let point = |started, at, cpu_nanoseconds, memory_bytes| Point { started, at, cpu_nanoseconds, memory_bytes };
        assert_eq!(sample.node, Some(point(0, 2_001_000_000, 100_250_000_000, 7_000_000)));
        let of = |pod: &str| sample.pods[&("n".to_owned(), pod.to_owned())].clone();
        assert_eq!(
            of("p"),
            BTreeMap::from([("c".to_owned(), point(1_250_000_000, 2_000_000_000, 1_500_000_000, 4096))])
        );
        assert_eq!(of("q"), BTreeMap::from([("a\"}b".to_owned(), point(0, 5, SECOND as u64, 1000))]));
        assert_eq!(sample.pods.len(), 2);
    }

    /// Nanocores and window, in thousandths of cores and milliseconds.
    fn check(before: Option<(i64, i64)>, (started, at, cpu): (i64, i64, i64), expected: Option<(u64, i64)>) {
        let millisecond = 1_000_000;
        let point = |started: i64, at: i64, cpu: i64| Point {
            started: started * millisecond,
            at: at * millisecond,
            cpu_nanoseconds: (cpu * millisecond) as u64,
            memory_bytes: 1,
        };
        let before = before.map(|(at, cpu)| point(started, at, cpu));
        let used = Used::between(before.as_ref(), &point(started, at, cpu));
        let used = used.map(|used| (used.nanocores / 1_000_000, used.window / millisecond));
        assert_eq!(used, expected, "{before:?} {started} {at} {cpu}");
    }

    #[test]
    fn a_rate_is_between_two_points_of_one_run_or_since_its_start() {
        check(Some((5_000, 1_000)), (1, 7_000, 2_000), Some((500, 2_000)));
        check(Some((6_900, 1_000)), (1, 7_000, 2_000), None);
        check(None, (3_000, 7_000, 1_000), Some((250, 4_000)));
        check(None, (6_500, 7_000, 1_000), None);
        // It was started again since.
        check(Some((5_000, 9_000)), (6_000, 8_000, 1_000), Some((500, 2_000)));
        check(Some((5_000, 900)), (6_000, 8_000, 1_000), Some((500, 2_000)));
        // Nobody knows since when a node counts.
        check(None, (0, 7_000, 1_000), None);
    }
}
