//! The policies of a bundle, read and named.

use std::collections::BTreeMap;

use cedar_policy::{Effect, Policy, PolicyId, PolicySet};
use serde_json::Value;

use crate::finding::{Finding, Places, from_cedar};
use crate::source::{PROPERTIES, Source};

/// The largest policy, in bytes. Cedar and the lint walk expressions recursively.
const MAX_POLICY_BYTES: usize = 16 * 1024;
const KERNEL: &str = include_str!("kernel.cedar");
/// Where kernel policies say that they stand.
pub(crate) const KERNEL_FILE: &str = "kernel.cedar";
/// The ids of kernel policies begin so, and those of authors must not.
pub(crate) const KERNEL_PREFIX: &str = "kernel-";

/// The policy sets of a bundle. They never mix: what is granted in one is granted in no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who may do what.
    Work,
    /// Who may answer for which rule.
    Approve,
    /// Who may use the service's own API.
    Admin,
}

impl Kind {
    /// The folder of the set.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Work => "policies/",
            Self::Approve => "approve/",
            Self::Admin => "admin/",
        }
    }
}

/// One policy.
#[derive(Debug, Clone)]
pub(crate) struct Authored {
    /// Its id.
    pub id: String,
    /// The set it belongs to.
    pub kind: Kind,
    /// The file it stands in.
    pub file: String,
    /// Line and column of its beginning.
    pub at: (usize, usize),
    /// Its text.
    pub text: String,
    /// Its JSON form.
    pub json: Value,
    /// The policy, under its own id.
    pub policy: Policy,
}

impl Authored {
    pub(crate) fn finding(&self, message: impl Into<String>) -> Finding {
        Finding::error(&self.file, message).at(self.at).about(&self.id)
    }

    pub(crate) fn permits(&self) -> bool {
        self.policy.effect() == Effect::Permit
    }
}

/// All policies of the author, by id. What cannot be read, or has no id of its own, is a finding.
pub(crate) fn read(source: &Source, findings: &mut Vec<Finding>) -> BTreeMap<String, Authored> {
    let mut all = BTreeMap::new();
    for kind in [Kind::Work, Kind::Approve, Kind::Admin] {
        read_folder(source, kind.folder(), kind, &mut all, findings);
    }
    all
}

/// What the author states about the work set, by id. Their ids are their own, so that a statement may be named like the
/// policy that it is about.
pub(crate) fn read_properties(source: &Source, findings: &mut Vec<Finding>) -> BTreeMap<String, Authored> {
    let mut all = BTreeMap::new();
    read_folder(source, PROPERTIES, Kind::Work, &mut all, findings);
    all
}

fn read_folder(
    source: &Source,
    folder: &str,
    kind: Kind,
    all: &mut BTreeMap<String, Authored>,
    findings: &mut Vec<Finding>,
) {
    let files = source.files().iter();
    for (file, text) in files.filter(|(file, _)| file.starts_with(folder) && file.ends_with(".cedar")) {
        for authored in read_file(file, text, |_| kind, findings) {
            if authored.id.starts_with(KERNEL_PREFIX) {
                let message = format!("the id `{}` begins with `{KERNEL_PREFIX}`, which is reserved", authored.id);
                findings.push(authored.finding(message).hint("choose another id"));
            }
            if let Some(first) = all.get(&authored.id) {
                let message = format!("the id `{}` is taken by {}:{}", authored.id, first.file, first.at.0);
                findings
                    .push(authored.finding(message).hint("choose another id; every policy of a bundle has its own"));
                continue;
            }
            all.insert(authored.id.clone(), authored);
        }
    }
}

/// The kernel's policies.
pub(crate) fn kernel(findings: &mut Vec<Finding>) -> Vec<Authored> {
    let kind = |policy: &Policy| match policy.action_constraint() {
        cedar_policy::ActionConstraint::Any => Kind::Work,
        cedar_policy::ActionConstraint::Eq(action) if action.id().unescaped() == crate::compose::APPROVE => {
            Kind::Approve
        }
        cedar_policy::ActionConstraint::Eq(_) | cedar_policy::ActionConstraint::In(_) => Kind::Admin,
    };
    read_file(KERNEL_FILE, KERNEL, kind, findings)
}

fn read_file(file: &str, text: &str, kind: impl Fn(&Policy) -> Kind, findings: &mut Vec<Finding>) -> Vec<Authored> {
    let set: PolicySet = match text.parse() {
        Ok(set) => set,
        Err(errors) => {
            let errors: cedar_policy::ParseErrors = errors;
            findings.extend(errors.iter().map(|error| from_cedar(file, text, error)));
            return Vec::new();
        }
    };
    let places = Places::new(text);
    for template in set.templates() {
        let at = template.as_ref().loc().map_or((1, 1), |loc| places.at(loc.start()));
        let hint = "write one policy for each entity that the template was meant for";
        findings.push(Finding::error(file, "templates are not accepted").at(at).hint(hint));
    }
    let mut read: Vec<Authored> = Vec::new();
    for policy in set.policies() {
        let at = policy.as_ref().loc().map_or((1, 1), |loc| places.at(loc.start()));
        let refuse = |message: String| Finding::error(file, message).at(at);
        let own = policy.to_cedar().unwrap_or_default();
        if own.len() > MAX_POLICY_BYTES {
            findings.push(refuse(format!("the policy is larger than {MAX_POLICY_BYTES} bytes")).hint("split it"));
            continue;
        }
        let Some(id) = policy.annotation("id") else {
            findings.push(refuse("the policy has no id".into()).hint("write `@id(\"...\")` before it"));
            continue;
        };
        if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            let hint = "use 1 to 64 of the characters a-z, 0-9 and `-`";
            findings.push(refuse(format!("`{}` is not a policy id", id.escape_debug())).hint(hint));
            continue;
        }
        match policy.to_json() {
            Ok(json) => read.push(Authored {
                id: id.to_owned(),
                kind: kind(policy),
                file: file.to_owned(),
                at,
                text: own,
                json,
                policy: policy.new_id(PolicyId::new(id)),
            }),
            Err(error) => findings.push(refuse(error.to_string()).hint("rewrite it in a simpler form")),
        }
    }
    // Cedar does not keep the order of a file.
    read.sort_by_key(|authored| authored.at);
    read
}

/// A set of the policies of one kind that `wanted` picks.
pub(crate) fn set<'a>(policies: impl Iterator<Item = &'a Authored>) -> Result<PolicySet, Finding> {
    let mut set = PolicySet::new();
    for authored in policies {
        set.add(authored.policy.clone()).map_err(|error| authored.finding(error.to_string()))?;
    }
    Ok(set)
}
