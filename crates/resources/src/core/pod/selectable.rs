//! The selectable fields of a pod, read straight from its stored form: a watch by node asks for them at every change.

use api::projection::{ReadError, Reader};

/// The values in the order of the declaration, as the declaration would read them from the typed pod.
pub(super) fn read(pod: Reader<'_>) -> Result<Vec<String>, ReadError> {
    let mut values: [String; 8] = Default::default();
    let [node, restart, scheduler, account, host_network, phase, address, nominated] = &mut values;
    let mut on_host = false;
    pod.fields(&[(2, "spec"), (3, "status")], |part, fields| match part {
        "spec" => fields.fields(
            &[
                (3, "restartPolicy"),
                (8, "serviceAccountName"),
                (10, "nodeName"),
                (11, "hostNetwork"),
                (19, "schedulerName"),
            ],
            |field, value| {
                match field {
                    "hostNetwork" => on_host = value.truth()?,
                    "restartPolicy" => *restart = value.text()?.to_owned(),
                    "serviceAccountName" => *account = value.text()?.to_owned(),
                    "nodeName" => *node = value.text()?.to_owned(),
                    _ => *scheduler = value.text()?.to_owned(),
                }
                Ok(())
            },
        ),
        _ => fields.fields(&[(1, "phase"), (11, "nominatedNodeName"), (12, "podIPs")], |field, value| {
            match field {
                "phase" => *phase = value.text()?.to_owned(),
                "nominatedNodeName" => *nominated = value.text()?.to_owned(),
                // The first of several.
                _ if address.is_empty() => value.fields(&[(1, "ip")], |_, ip| {
                    *address = ip.text()?.to_owned();
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        }),
    })?;
    *host_network = on_host.to_string();
    Ok(values.into())
}
