//! Rules for probes and lifecycle hooks.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::absent::{list, text};
use crate::faults::{choice, each_invalid, non_negative};
use crate::names;

/// What a probe's answer decides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Liveness,
    Readiness,
    Startup,
}

/// The one thing that a probe or a hook does.
#[derive(Default)]
struct Action<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

/// Judges a probe.
pub(crate) fn validate(
    probe: &Probe,
    role: Role,
    grace_seconds: Option<i64>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let action = Action {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    validate_action(&action, grace_seconds, path, faults);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        non_negative(faults, &path.child(field), value.unwrap_or(0).into());
    }
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(seconds) = probe.termination_grace_period_seconds {
        if seconds <= 0 {
            faults.invalid(&grace_path, &seconds, "must be greater than 0");
        }
        if role == Role::Readiness {
            faults.invalid(&grace_path, &seconds, "must not be set for readinessProbes");
        }
    }
    let threshold = probe.success_threshold.unwrap_or(0);
    if role != Role::Readiness && threshold != 1 {
        faults.invalid(&path.child("successThreshold"), &threshold, "must be 1");
    }
}

/// Judges the hooks of a container.
pub(crate) fn validate_lifecycle(
    lifecycle: &Lifecycle,
    grace_seconds: Option<i64>,
    os: &str,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            validate_hook(hook, grace_seconds, &path.child(field), faults);
        }
    }
    let Some(signal) = &lifecycle.stop_signal else { return };
    let path = path.child("stopSignal");
    match os {
        "linux" => choice(faults, &path, signal, super::signals::LINUX),
        "windows" => choice(faults, &path, signal, super::signals::WINDOWS),
        _ => faults.forbidden(&path, "may not be set for containers with empty `spec.os.name`"),
    }
}

fn validate_hook(hook: &LifecycleHandler, grace_seconds: Option<i64>, path: &Path<'_>, faults: &mut FieldErrors) {
    let action = Action {
        exec: hook.exec.as_ref(),
        http_get: hook.http_get.as_ref(),
        tcp_socket: hook.tcp_socket.as_ref(),
        grpc: None,
        sleep: hook.sleep.as_ref(),
    };
    validate_action(&action, grace_seconds, path, faults);
}

fn validate_action(action: &Action<'_>, grace_seconds: Option<i64>, path: &Path<'_>, faults: &mut FieldErrors) {
    let mut set = Vec::new();
    let mut first = |field: &'static str| {
        set.push(field);
        set.len() == 1
    };
    let more_than_one = "may not specify more than 1 handler type";
    if let Some(exec) = action.exec
        && first("exec")
        && list(&exec.command).is_empty()
    {
        faults.required(&path.child("exec").child("command"), "");
    }
    if let Some(http_get) = action.http_get
        && first("httpGet")
    {
        validate_http_get(http_get, &path.child("httpGet"), faults);
    }
    if let Some(tcp_socket) = action.tcp_socket
        && first("tcpSocket")
    {
        validate_port(&tcp_socket.port, &path.child("tcpSocket").child("port"), faults);
    }
    if let Some(grpc) = action.grpc
        && first("grpc")
    {
        validate_port(&IntOrString::Int(grpc.port), &path.child("grpc").child("port"), faults);
    }
    if let Some(sleep) = action.sleep
        && first("sleep")
    {
        validate_sleep(sleep, grace_seconds, &path.child("sleep"), faults);
    }
    for field in set.iter().skip(1) {
        faults.forbidden(&path.child(field), more_than_one);
    }
    if set.is_empty() {
        faults.required(path, "must specify a handler type");
    }
}

fn validate_http_get(action: &HTTPGetAction, path: &Path<'_>, faults: &mut FieldErrors) {
    if text(&action.path).is_empty() {
        faults.required(&path.child("path"), "");
    }
    validate_port(&action.port, &path.child("port"), faults);
    choice(faults, &path.child("scheme"), text(&action.scheme), &["HTTP", "HTTPS"]);
    for header in list(&action.http_headers) {
        each_invalid(faults, &path.child("httpHeaders"), &header.name, names::http_header(&header.name));
    }
}

/// Judges a port given as a number or by the name of a container's port.
pub(crate) fn validate_port(port: &IntOrString, path: &Path<'_>, faults: &mut FieldErrors) {
    match port {
        IntOrString::Int(number) => each_invalid(faults, path, number, names::port((*number).into())),
        IntOrString::String(name) => each_invalid(faults, path, name, names::port_name(name)),
    }
}

fn validate_sleep(sleep: &SleepAction, grace_seconds: Option<i64>, path: &Path<'_>, faults: &mut FieldErrors) {
    // A missing grace period is a fault of its own.
    let Some(grace_seconds) = grace_seconds else { return };
    if sleep.seconds < 0 || sleep.seconds > grace_seconds {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_seconds})");
        faults.invalid(path, &sleep.seconds, why);
    }
}
