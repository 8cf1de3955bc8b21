//! Taking everything of ours out of the kernel, and nothing else.

use std::path::{Path, PathBuf};

use cni::Cidr;

use crate::bridge::remove_links;
use crate::error::NetError;
use crate::hostports::HostPorts;
use crate::names::Names;
use crate::namespace;
use crate::rules::Kernel;

/// What is to be removed.
#[derive(Clone, Debug)]
pub struct CleanupOptions {
    /// What our things are called.
    pub names: Names,
    /// The node's range of pod addresses.
    pub pod_cidr: Cidr,
    /// Where reservations of addresses are kept; removed with all that is in it.
    pub state_directory: PathBuf,
    /// The node's network namespace, when it is not the one of this process.
    pub netns: Option<PathBuf>,
}

/// Removes our rules (also from tables of others), interfaces, routes and reservations. Succeeds when there are none.
/// Forwarding stays switched on: others may have come to rely on it. Blocks for some milliseconds an interface.
pub fn cleanup(options: &CleanupOptions) -> Result<(), NetError> {
    let body = || remove_all(&options.names, options.pod_cidr);
    match &options.netns {
        None => body()?,
        Some(path) => {
            let file = namespace::open(path).map_err(NetError::io(format!("open {}", path.display())))?;
            let inside = namespace::inside(file, || Ok(body()));
            inside.map_err(NetError::io(format!("enter {}", path.display())))??;
        }
    }
    remove_directory(&options.state_directory)
}

fn remove_all(names: &Names, pod_cidr: Cidr) -> Result<(), NetError> {
    // Rules first: they lead to interfaces.
    let mut kernel = Kernel::open().map_err(NetError::kernel("open a netfilter socket"))?;
    kernel.remove(names).map_err(NetError::kernel("remove the service rules"))?;
    let ports = HostPorts::open(names, pod_cidr.address()).map_err(NetError::kernel("open a netfilter socket"))?;
    ports.remove_table().map_err(NetError::kernel("remove the ports of pods"))?;
    remove_links(names, pod_cidr)
}

fn remove_directory(path: &Path) -> Result<(), NetError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(NetError::io(format!("remove {}", path.display()))(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Socket;
    use crate::netlink::route::{Owner, Route, Way};
    use crate::rules::rule_set;
    use crate::testbed::{TestNode, web};

    #[tokio::test]
    async fn removes_what_is_ours_and_nothing_else() {
        let node = TestNode::start().await;
        let pod = node.pod("a").await;
        let mut kernel = node.namespace.run(|| Kernel::open().unwrap());
        kernel.apply(&rule_set(&web(&[pod.address]), &node.facts())).unwrap();
        let socket = node.namespace.run(|| Socket::route().unwrap());
        let others = Route { to: "10.9.0.0/24".parse().unwrap(), way: Way::Unreachable, source: None };
        socket.set_route(&others).unwrap();
        let options = CleanupOptions {
            names: Names::default(),
            pod_cidr: node.options.pod_cidr,
            state_directory: node.options.state_directory.clone(),
            netns: Some(node.namespace.path()),
        };
        cleanup(&options).unwrap();
        let names: Vec<String> = socket.links().unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["lo"]);
        assert_eq!(socket.routes().unwrap(), [(others, Owner::Us)], "another node's range is not ours to remove");
        assert!(!options.state_directory.exists());
        assert!(kernel.is_absent(&options.names).unwrap());
        cleanup(&options).unwrap();
    }
}
