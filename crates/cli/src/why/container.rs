//! Why a container does not start, is not ready, or was started again.

use std::time::Duration;

use api::decide::trouble::{ended, limit, spec_of, without_back_off};
use api::quantity::{Format, Quantity};
use api::value::Value;

use super::{
    Change, Evidence, Finding, World, evidence, kubectl, last_event, list, name, number, of_event, owner, text,
};

/// A container of a pod, with where its status stands.
struct Case<'a> {
    pod: &'a Value,
    /// `containerStatuses` or `initContainerStatuses`
    list: &'static str,
    status: &'a Value,
    name: &'a str,
    world: &'a World,
}

/// Everything that is wrong with a container.
pub(super) fn findings(pod: &Value, list: &'static str, status: &Value, world: &World) -> Vec<Finding> {
    let case = Case { pod, list, status, name: text(status, &["name"]), world };
    match text(status, &["state", "waiting", "reason"]) {
        "" => case.unready().into_iter().chain(case.ended_badly()).chain(case.restarted()).collect(),
        "ContainerCreating" | "PodInitializing" => Vec::new(),
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => vec![case.image()],
        "CreateContainerConfigError" => vec![case.configuration()],
        "CrashLoopBackOff" => vec![case.crashes()],
        _ => vec![case.cannot_start()],
    }
}

impl Case<'_> {
    fn at(&self, path: &str) -> String {
        format!("status.{}[{}].{path}", self.list, self.name)
    }

    fn seen(&self, path: &str, value: impl Into<String>) -> Evidence {
        evidence(self.pod, self.at(path), value)
    }

    fn waits(&self) -> Evidence {
        let (reason, message) =
            (text(self.status, &["state", "waiting", "reason"]), text(self.status, &["state", "waiting", "message"]));
        self.seen("state.waiting", if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") })
    }

    fn field(&self) -> String {
        let list = if self.list == "containerStatuses" { "containers" } else { "initContainers" };
        format!("spec.{list}{{{}}}", self.name)
    }

    fn event(&self, reasons: &[&str]) -> Option<&Value> {
        last_event(self.world, self.pod, Some(&self.field()), reasons)
    }

    /// What to change so that the pod becomes another, or how to make it anew.
    fn set(&self, verb: &str, rest: &str) -> String {
        match owner(self.pod, self.world) {
            Some(owner) => format!("{} set {verb} {owner} {rest}", kubectl(self.pod)),
            None => format!("{} set {verb} pod/{} {rest}", kubectl(self.pod), name(self.pod)),
        }
    }

    fn edit(&self) -> String {
        let owner = owner(self.pod, self.world).unwrap_or_else(|| format!("pod/{}", name(self.pod)));
        format!("{} edit {owner}", kubectl(self.pod))
    }

    fn image(&self) -> Finding {
        let image = spec_of(self.pod, self.name).map(|container| text(container, &["image"])).unwrap_or_default();
        let reason = text(self.status, &["state", "waiting", "reason"]);
        let message = text(self.status, &["state", "waiting", "message"]);
        let what = format!("The image {image:?} of container {:?} cannot be had.", self.name);
        let event = self.event(&["Failed", "ErrImageNeverPull", "InspectFailed"]).filter(|event| {
            let told = text(event, &["message"]);
            told.starts_with("Failed to pull image") || told.contains("pull policy")
        });
        let finding = Finding::new(reason, what).seen([self.waits()]).seen(event.map(of_event));
        let (why, command) = self.image_change(reason, &without_back_off(message).to_lowercase(), image);
        finding.helped_by(why, command)
    }

    fn image_change(&self, reason: &str, answer: &str, image: &str) -> (String, String) {
        let has = |words: &[&str]| words.iter().any(|word| answer.contains(word));
        let other = self.set("image", &format!("{}=IMAGE:TAG", self.name));
        if reason == "InvalidImageName" {
            return (format!("{image:?} is no image's name: correct it."), other);
        }
        if reason == "ErrImageNeverPull" {
            let why = "The pull policy Never takes only what the node has: load the image there, or allow pulling.";
            return (why.to_owned(), "isopod image load ARCHIVE".to_owned());
        }
        if has(&["unauthorized", "authentication required", "denied", "forbidden", "401", "403"]) {
            let why = "The registry wants to know who asks (some say so of images that do not exist, too): give the pod a secret for it.";
            let secret = format!(
                "{0} create secret docker-registry REGISTRY --docker-server={1} --docker-username=USER --docker-password=PASSWORD\n\
                 {0} patch serviceaccount {2} -p '{{\"imagePullSecrets\":[{{\"name\":\"REGISTRY\"}}]}}'",
                kubectl(self.pod),
                host(image),
                match text(self.pod, &["spec", "serviceAccountName"]) {
                    "" => "default",
                    account => account,
                }
            );
            return (why.to_owned(), secret);
        }
        if has(&[
            "no such host",
            "refused",
            "timed out",
            "timeout",
            "unreachable",
            "lookup",
            "dns",
            "resolve",
            "connect",
        ]) {
            let why = format!(
                "The registry {:?} does not answer this node: look at its name and the network, or name another registry.",
                host(image)
            );
            return (why, other);
        }
        if has(&["certificate", "tls", "http response to https"]) {
            let why = "The registry's certificate is not trusted by this node: name its authority, or, for tests, do without TLS.";
            return (
                why.to_owned(),
                format!("isopod up --registry-ca {0}=FILE  # or: --insecure-registry {0}", host(image)),
            );
        }
        (format!("The registry has no such image: name one that is there in place of {image:?}."), other)
    }

    fn configuration(&self) -> Finding {
        let message = text(self.status, &["state", "waiting", "message"]);
        let what = format!("Container {:?} cannot start, for its configuration is not there: {message}.", self.name);
        let mut finding = Finding::new("CreateContainerConfigError", what).seen([self.waits()]);
        match missing(message, self.pod, self.world) {
            Some((evidence, change)) => {
                finding = finding.seen(evidence);
                finding.changes.push(change);
                finding
            }
            None => finding.helped_by("Correct what the message names.", self.edit()),
        }
    }

    fn cannot_start(&self) -> Finding {
        let reason = text(self.status, &["state", "waiting", "reason"]);
        let message = text(self.status, &["state", "waiting", "message"]);
        let finding =
            Finding::new(reason, format!("Container {:?} cannot start: {message}.", self.name)).seen([self.waits()]);
        if reason == "UnsupportedField" {
            return finding
                .helped_by("This node does not honour the field that the message names: leave it out.", self.edit());
        }
        finding.helped_by("Correct what the message names.", self.edit())
    }

    /// How it ended the last time, as evidence.
    fn last_end(&self) -> Option<(&Value, Evidence)> {
        let [state, last] =
            ["state", "lastState"].map(|state| self.status.at(&[state, "terminated"]).map(|found| (state, found)));
        let (state, terminated) = state.or(last)?;
        let words = [
            format!("exitCode {}", number(terminated, &["exitCode"])),
            text(terminated, &["reason"]).to_owned(),
            text(terminated, &["message"]).trim().to_owned(),
        ];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let at = text(terminated, &["finishedAt"]);
        let seen = Evidence {
            at: (!at.is_empty()).then(|| at.to_owned()),
            ..self.seen(&format!("{state}.terminated"), words.join(", "))
        };
        Some((terminated, seen))
    }

    fn logs(&self) -> Option<Evidence> {
        let lines =
            self.world.logs.get(&format!("{}/{}", name(self.pod), self.name)).filter(|lines| !lines.is_empty())?;
        Some(evidence(self.pod, format!("log of {}", self.name), format!("(last lines)\n{}", lines.join("\n"))))
    }

    /// What condemned it, when a probe did.
    fn condemned(&self) -> Option<&Value> {
        let killed = self.event(&["Killing"])?;
        let message = text(killed, &["message"]);
        message.contains("probe").then(|| self.event(&["Unhealthy"])).flatten()
    }

    fn crashes(&self) -> Finding {
        let restarts = number(self.status, &["restartCount"]);
        let Some((terminated, seen)) = self.last_end() else { return self.cannot_start() };
        let how = ended(terminated, limit(self.pod, self.name));
        let mut finding = Finding::new(
            "CrashLoopBackOff",
            format!(
                "Container {:?} ends again and again: it {how}; it was started again {}.",
                self.name,
                times(restarts)
            ),
        )
        .seen([seen])
        .seen(self.logs());
        if let Some(next) = self.next_try(terminated) {
            finding =
                finding.seen([Evidence { at: Some(next), ..self.seen("state.waiting", "the next try is not before") }]);
        }
        self.helped(finding, terminated)
    }

    fn next_try(&self, terminated: &Value) -> Option<String> {
        let message = text(self.status, &["state", "waiting", "message"]);
        let delay = go_duration(message.strip_prefix("back-off ")?.split(' ').next()?)?;
        let finished: jiff::Timestamp = text(terminated, &["finishedAt"]).parse().ok()?;
        Some(api::meta::rfc3339(finished.checked_add(delay).ok()?))
    }

    /// Adds what would keep the container from ending so.
    fn helped(&self, finding: Finding, terminated: &Value) -> Finding {
        let code = number(terminated, &["exitCode"]);
        let command = spec_of(self.pod, self.name).map(|container| list(container, &["command"])).unwrap_or_default();
        let command: Vec<&str> = command.iter().filter_map(Value::as_str).collect();
        if text(terminated, &["reason"]) == "OOMKilled" {
            return self.more_memory(finding);
        }
        if let Some(unhealthy) = self.condemned() {
            return finding.seen([of_event(unhealthy)]).helped_by(
                "Its liveness or startup probe ended it: give the container more time (initialDelaySeconds, failureThreshold), or correct the probe.",
                self.edit(),
            );
        }
        match code {
            0 => finding.helped_by(
                "Its command came to its end, and a pod that is to run for ever starts it again: let it run something that goes on, or make it a Job.",
                self.edit(),
            ),
            126 | 127 => finding.helped_by(format!("Correct the command, which is {command:?}."), self.edit()),
            _ => finding.helped_by(
                "The container's own words tell most; then correct its configuration, or go back to what worked.",
                self.back(),
            ),
        }
    }

    fn back(&self) -> String {
        let logs = format!("{} logs {} -c {} --previous", kubectl(self.pod), name(self.pod), self.name);
        match owner(self.pod, self.world).filter(|owner| owner.starts_with("deployment/")) {
            Some(owner) => format!("{logs}\n{} rollout undo {owner}", kubectl(self.pod)),
            None => logs,
        }
    }

    fn more_memory(&self, finding: Finding) -> Finding {
        let present = limit(self.pod, self.name);
        let more = present
            .and_then(|limit| Quantity::parse(limit).ok())
            .map(|limit| Quantity::new(limit.value().saturating_mul(2), Format::BinarySi).to_string());
        match (present, more) {
            (Some(present), Some(more)) => {
                let finding = finding.seen([evidence(
                    self.pod,
                    format!("spec.containers[{}].resources.limits.memory", self.name),
                    format!("{present}; it needed all of it and more when it was killed"),
                )]);
                finding.helped_by(
                    "Allow more memory, or let it use less.",
                    self.set("resources", &format!("-c {} --limits=memory={more}", self.name)),
                )
            }
            _ => finding.helped_by(
                "The whole node ran out of memory: ask for what the container needs, so that it gets a node that has it.",
                self.set("resources", &format!("-c {} --requests=memory=AMOUNT", self.name)),
            ),
        }
    }

    /// It runs again after it ended.
    fn restarted(&self) -> Option<Finding> {
        let restarts = number(self.status, &["restartCount"]);
        if restarts == 0 || self.status.at(&["state", "running"]).is_none() {
            return None;
        }
        let (terminated, seen) = self.last_end()?;
        let how = ended(terminated, limit(self.pod, self.name));
        let what = format!(
            "Container {:?} runs, but was started again {}: the last time it {how}.",
            self.name,
            times(restarts)
        );
        let reason = if text(terminated, &["reason"]) == "OOMKilled" { "OOMKilled" } else { "Restarted" };
        Some(self.helped(Finding::new(reason, what).seen([seen]).seen(self.logs()), terminated))
    }

    /// It ended and is not started again (yet).
    fn ended_badly(&self) -> Option<Finding> {
        let terminated = self.status.at(&["state", "terminated"])?;
        if number(terminated, &["exitCode"]) == 0 {
            return None;
        }
        let (_, seen) = self.last_end()?;
        let how = ended(terminated, limit(self.pod, self.name));
        let reason = text(terminated, &["reason"]);
        let finding =
            Finding::new(if reason.is_empty() { "Error" } else { reason }, format!("Container {:?} {how}.", self.name));
        Some(self.helped(finding.seen([seen]).seen(self.logs()), terminated))
    }

    /// It runs, and is not ready.
    fn unready(&self) -> Option<Finding> {
        let ready = self.status.get("ready").and_then(Value::as_bool).unwrap_or(false);
        if ready || self.status.at(&["state", "running"]).is_none() || self.list != "containerStatuses" {
            return None;
        }
        let started = self.status.get("started").and_then(Value::as_bool).unwrap_or(true);
        let container = spec_of(self.pod, self.name)?;
        let probe = if started { "readinessProbe" } else { "startupProbe" };
        let shown = container.get(probe).map(shown_probe);
        let event = self.event(&["Unhealthy"]);
        let failure = event.map(|event| text(event, &["message"]).trim().trim_end_matches('.')).unwrap_or_default();
        let what = match (started, failure) {
            (false, "") => format!("Container {:?} runs and has not passed its startup probe yet.", self.name),
            (true, "") => format!("Container {:?} runs and has not passed its readiness probe yet.", self.name),
            (_, failure) => format!("Container {:?} runs and is not ready: {failure}.", self.name),
        };
        let finding = Finding::new("ContainersNotReady", what)
            .seen([self.seen("ready", "false")])
            .seen(event.map(of_event))
            .seen(shown.map(|shown| evidence(self.pod, format!("spec.containers[{}].{probe}", self.name), shown)));
        Some(match self.other_port(container, probe, failure) {
            Some((why, command)) => finding.helped_by(why, command),
            None => finding.helped_by(
                format!("Make it answer the {}, or correct that; see what it says meanwhile.", words_of(probe)),
                format!("{} logs {} -c {}", kubectl(self.pod), name(self.pod), self.name),
            ),
        })
    }

    /// The probe asks a port on which nothing listens, and the container declares exactly one other.
    fn other_port(&self, container: &Value, probe: &str, failure: &str) -> Option<(String, String)> {
        if !failure.contains("refused") {
            return None;
        }
        let handler =
            ["httpGet", "tcpSocket", "grpc"].into_iter().find(|handler| container.at(&[probe, handler]).is_some())?;
        let asked = container.at(&[probe, handler, "port"])?.as_i64()?;
        let [declared] = list(container, &["ports"]) else { return None };
        let declared = number(declared, &["containerPort"]);
        if declared == asked {
            return None;
        }
        let template = format!(
            "{{\"spec\":{{\"template\":{{\"spec\":{{\"containers\":[{{\"name\":\"{}\",\"{probe}\":{{\"{handler}\":{{\"port\":{declared}}}}}}}]}}}}}}}}",
            self.name
        );
        let why = format!(
            "Nothing listens on port {asked}, which the probe asks; the container declares port {declared}: ask that."
        );
        let command = match owner(self.pod, self.world) {
            Some(owner) => format!("{} patch {owner} -p '{template}'", kubectl(self.pod)),
            None => self.edit(),
        };
        Some((why, command))
    }
}

fn words_of(probe: &str) -> &'static str {
    if probe == "startupProbe" { "startup probe" } else { "readiness probe" }
}

fn times(count: i64) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        count => format!("{count} times"),
    }
}

fn shown_probe(probe: &Value) -> String {
    serde_json::to_string(probe).unwrap_or_default()
}

/// The registry in an image's name.
fn host(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// `1m20s`, as Go writes durations of whole seconds.
fn go_duration(text: &str) -> Option<Duration> {
    let (mut seconds, mut number) = (0_u64, 0_u64);
    for character in text.chars() {
        match (character, character.to_digit(10)) {
            (_, Some(digit)) => number = number.checked_mul(10)?.checked_add(digit.into())?,
            (unit, None) => {
                let unit = match unit {
                    'h' => 3600,
                    'm' => 60,
                    's' => 1,
                    _ => return None,
                };
                seconds = seconds.checked_add(number.checked_mul(unit)?)?;
                number = 0;
            }
        }
    }
    Some(Duration::from_secs(seconds))
}

/// What is missing by a message such as `configmap "a" not found`, and how it would come to be.
pub(super) fn missing(message: &str, pod: &Value, world: &World) -> Option<(Vec<Evidence>, Change)> {
    let kubectl = kubectl(pod);
    for (kind, words) in [("configmap", "configmap \""), ("secret", "secret \"")] {
        let Some((_, rest)) = message.split_once(words) else { continue };
        let Some((named, _)) = rest.split_once("\" not found") else { continue };
        let create = if kind == "secret" { "secret generic" } else { kind };
        let change = Change {
            what: format!("Make the {kind} {named:?}, or correct its name where the pod refers to it."),
            command: Some(format!("{kubectl} create {create} {named} --from-literal=KEY=VALUE")),
        };
        return Some((Vec::new(), change));
    }
    let rest = message.split_once("couldn't find key ")?.1;
    let (key, rest) = rest.split_once(" in ")?;
    let (kind, place) = rest.split_once(' ')?;
    let named = place.split_once('/').map_or(place, |(_, named)| named).trim_end_matches('.');
    let kind = kind.to_ascii_lowercase();
    let present = world.keys.get(&format!("{kind}/{named}"));
    let seen = present.map(|keys| Evidence {
        object: format!("{kind}/{named}"),
        path: "data".to_owned(),
        value: if keys.is_empty() { "it has no keys".to_owned() } else { format!("its keys are {}", keys.join(", ")) },
        at: None,
    });
    let near = present.into_iter().flatten().find(|found| is_near(found, key));
    let field = if kind == "secret" { "stringData" } else { "data" };
    let change = Change {
        what: match near {
            Some(near) => {
                format!("There is a key {near:?}: was that meant? Correct the pod's reference, or add {key:?}.")
            }
            None => format!("Add the key {key:?}, or refer to one that is there."),
        },
        command: Some(format!(
            "{kubectl} patch {kind} {named} --type merge -p '{{\"{field}\":{{\"{key}\":\"VALUE\"}}}}'"
        )),
    };
    Some((seen.into_iter().collect(), change))
}

/// Whether one word may be a slip for the other: the same but for case and signs, its letters in another order, or two
/// letters apart.
pub(super) fn is_near(one: &str, other: &str) -> bool {
    let plain = |word: &str| word.chars().filter(|letter| letter.is_alphanumeric()).collect::<String>().to_lowercase();
    let (one, other) = (plain(one), plain(other));
    let letters = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    let swapped = one.len() > 2 && letters(&one) == letters(&other);
    one == other || swapped || (one.len().min(other.len()) > 3 && distance(&one, &other) <= 2)
}

/// How many letters have to be changed, added or left out.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (index, found) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *found);
            diagonal = row[index + 1];
            row[index + 1] = replaced.min(row[index] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
