//! What only the kernel on disk can get wrong.

mod damage;
mod directory;
mod group;
mod model;
mod outside;

use std::path::PathBuf;

use tempfile::TempDir;

use super::{Config, Mode, RocksKernel};
use crate::contract::Backend;
use crate::fail::{FailPoint, Fault};

/// A store in a directory that goes away with it.
pub(super) struct OnDisk {
    kernel: Option<RocksKernel>,
    config: Config,
    directory: TempDir,
}

impl OnDisk {
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Ends as if the process had died: the write-ahead log stays as it is.
    pub(super) async fn crash(&mut self) {
        use crate::contract::acme;
        use crate::kernel::Kernel as _;
        self.config.fail.arm(Fault::CrashBefore);
        let last = crate::Commit::new(acme()).record("lost in the crash");
        assert!(self.kernel().commit(last).await.is_err());
        self.kernel = None;
    }
}

impl Backend for OnDisk {
    type Kernel = RocksKernel;

    fn new() -> Self {
        let config = Config::new(Mode::Production);
        let directory = tempfile::tempdir().unwrap();
        let kernel = RocksKernel::create(&directory.path().join("data"), &config).unwrap();
        Self { kernel: Some(kernel), config, directory }
    }

    fn kernel(&self) -> &RocksKernel {
        self.kernel.as_ref().unwrap()
    }

    fn fail(&self) -> &FailPoint {
        &self.config.fail
    }

    fn shutdown(&self) {
        self.kernel().shutdown();
    }

    fn restart(&mut self) {
        self.kernel = None;
        self.kernel = Some(RocksKernel::open(&self.path(), &self.config).unwrap());
    }
}

crate::contract::contract!(OnDisk);
