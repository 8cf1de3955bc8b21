//! `/healthz`, `/livez`, `/readyz` and their single checks.

use http::Response;
use wire::Body;

use crate::answer::text;
use crate::request::Query;
use crate::server::ApiServer;

/// A check: its name, whether only readiness asks for it, and its verdict.
struct Check {
    name: &'static str,
    readiness_only: bool,
    passes: fn(&ApiServer) -> bool,
}

const CHECKS: &[Check] = &[
    Check { name: "ping", readiness_only: false, passes: |_| true },
    // The embedded store lives and dies with this process; what it cannot do any more it says in the answers to writes.
    Check { name: "etcd", readiness_only: false, passes: |server| !server.state.tasks.cancel().is_cancelled() },
    Check { name: "informer-sync", readiness_only: true, passes: ApiServer::is_ready },
    Check { name: "poststarthook/rbac/bootstrap-roles", readiness_only: false, passes: ApiServer::is_ready },
    Check { name: "poststarthook/bootstrap-controller", readiness_only: false, passes: ApiServer::is_ready },
    Check { name: "shutdown", readiness_only: true, passes: |server| !server.state.tasks.cancel().is_cancelled() },
];

/// Answers a probe, or one check of it.
pub(crate) fn answer(server: &ApiServer, probe: &str, single: &str, query: &Query) -> Response<Body> {
    let asked = CHECKS.iter().filter(|check| probe == "/readyz" || !check.readiness_only);
    if !single.is_empty() {
        return match asked.clone().find(|check| check.name == single) {
            Some(check) if (check.passes)(server) => text(200, "ok"),
            Some(_) => text(500, "internal server error: not ok\n"),
            None => text(404, "404 page not found\n"),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let (mut report, mut failed) = (String::new(), false);
    for check in asked {
        let name = check.name;
        if excluded.contains(&name) {
            report.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if (check.passes)(server) {
            report.push_str(&format!("[+]{name} ok\n"));
        } else {
            failed = true;
            report.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    let name = &probe[1..];
    match (failed, query.get("verbose").is_some()) {
        (true, _) => text(500, format!("{report}{name} check failed\n")),
        (false, true) => text(200, format!("{report}{name} check passed\n")),
        (false, false) => text(200, "ok"),
    }
}
