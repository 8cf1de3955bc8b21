//! Why somebody may not do something, and the smallest role that would let them. Pure.

use api::value::Value;

use super::{Evidence, Finding, list, text};

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    pub verb: String,
    pub group: String,
    /// The plural.
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Empty for the whole cluster.
    pub namespace: String,
    pub user: String,
    pub groups: Vec<String>,
}

/// The roles that there are.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    pub cluster_roles: Vec<Value>,
    /// Of the namespace.
    pub roles: Vec<Value>,
}

impl Question {
    /// Reads `RESOURCE[.GROUP][/NAME]`, with `pods/log` and the like as `pods/log` too when `subresources` says so.
    pub fn parse(verb: &str, resource: &str) -> Question {
        const SUBRESOURCES: &[&str] = &[
            "log",
            "exec",
            "attach",
            "portforward",
            "proxy",
            "status",
            "scale",
            "eviction",
            "binding",
            "token",
            "resize",
            "ephemeralcontainers",
            "finalize",
            "approval",
        ];
        let (resource, rest) = resource.split_once('/').unwrap_or((resource, ""));
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let (subresource, name) = if SUBRESOURCES.contains(&rest) { (rest, "") } else { ("", rest) };
        Question {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: plural.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            ..Question::default()
        }
    }

    /// As kubectl writes a resource: `deployments.apps/scale`.
    fn shown(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let subresource = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        format!("{}{group}{subresource}", self.resource)
    }

    fn place(&self) -> String {
        if self.namespace.is_empty() {
            "in the whole cluster".to_owned()
        } else {
            format!("in namespace {:?}", self.namespace)
        }
    }

    /// Whether a rule of a role allows this.
    fn is_allowed_by(&self, rule: &Value) -> bool {
        let has = |field: &str, wanted: &str| {
            list(rule, &[field]).iter().filter_map(Value::as_str).any(|found| found == "*" || found == wanted)
        };
        let wanted = match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        };
        let names = list(rule, &["resourceNames"]);
        has("verbs", &self.verb)
            && has("apiGroups", &self.group)
            && has("resources", &wanted)
            && (names.is_empty() || names.iter().any(|name| name.as_str() == Some(&self.name)))
    }

    /// As options of kubectl's generators.
    fn subject(&self) -> String {
        let account = self.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        match account {
            Some((namespace, name)) => format!("--serviceaccount={namespace}:{name}"),
            None => format!("--user={}", self.user),
        }
    }

    /// The role that allows this and nothing else, with its binding, as YAML.
    pub fn smallest_role(&self) -> String {
        let name = format!("{}-{}", self.verb, self.shown().replace(['.', '/'], "-"));
        let (prefix, place) = match self.namespace.as_str() {
            "" => ("Cluster", String::new()),
            namespace => ("", format!(", namespace: {namespace}")),
        };
        let resource = self.shown();
        let resource = match resource.split_once('.') {
            Some(_) if self.subresource.is_empty() => self.resource.clone(),
            Some(_) => format!("{}/{}", self.resource, self.subresource),
            None => resource,
        };
        let names = if self.name.is_empty() { String::new() } else { format!(", resourceNames: [{}]", self.name) };
        let account = self.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let subject = match account {
            Some((namespace, name)) => format!("{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}"),
            None => format!("{{kind: User, name: {:?}, apiGroup: rbac.authorization.k8s.io}}", self.user),
        };
        format!(
            "kubectl apply -f - <<'END'\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: {prefix}Role\nmetadata: {{name: {name}{place}}}\nrules:\n\
             - {{apiGroups: [{:?}], resources: [{resource}], verbs: [{}]{names}}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: {prefix}RoleBinding\nmetadata: {{name: {name}{place}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {prefix}Role, name: {name}}}\nsubjects:\n- {subject}\nEND",
            self.group, self.verb
        )
    }
}

/// How much a role allows: fewer is less.
fn breadth(role: &Value) -> usize {
    let weight = |rule: &Value, field: &str| {
        let words = list(rule, &[field]);
        if words.iter().any(|word| word.as_str() == Some("*")) { 1000 } else { words.len().max(1) }
    };
    list(role, &["rules"])
        .iter()
        .map(|rule| weight(rule, "verbs") * weight(rule, "resources") * weight(rule, "apiGroups"))
        .sum()
}

/// What to say of a refusal. `reason` is the authorizer's own.
pub fn denied(question: &Question, reason: &str, roles: &Roles) -> Finding {
    let what = format!("User {:?} may not {} {} {}.", question.user, question.verb, question.shown(), question.place());
    let reason = if reason.is_empty() { "no role that is bound to the user or its groups allows it" } else { reason };
    let mut finding = Finding::new("Forbidden", what).seen([Evidence {
        object: format!("user/{}", question.user),
        path: "access review".to_owned(),
        value: reason.to_owned(),
        at: None,
    }]);
    if !question.groups.is_empty() {
        finding = finding.seen([Evidence {
            object: format!("user/{}", question.user),
            path: "groups".to_owned(),
            value: question.groups.join(", "),
            at: None,
        }]);
    }
    finding = finding.helped_by("The smallest role that allows just this, and its binding:", question.smallest_role());
    let own = roles.roles.iter().map(|role| ("role", role));
    let all = roles.cluster_roles.iter().map(|role| ("clusterrole", role)).chain(own);
    let allows = |(_, role): &(&str, &Value)| list(role, &["rules"]).iter().any(|rule| question.is_allowed_by(rule));
    // Roles of the system's own parts are not for people.
    let for_people = |(_, role): &(&str, &Value)| !text(role, &["metadata", "name"]).starts_with("system:");
    let narrowest = all.filter(for_people).filter(allows).min_by_key(|(_, role)| breadth(role));
    match narrowest {
        Some((kind, role)) => {
            let named = text(role, &["metadata", "name"]);
            let (binding, place) = match question.namespace.as_str() {
                "" => ("clusterrolebinding", String::new()),
                namespace => ("rolebinding", format!(" -n {namespace}")),
            };
            let command = format!("kubectl{place} create {binding} NAME --{kind}={named} {}", question.subject());
            finding.helped_by(
                format!("Or bind a role that is there: {kind} {named:?} is the narrowest that allows it."),
                command,
            )
        }
        None => finding,
    }
}
