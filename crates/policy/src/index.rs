//! Which policies can apply to a request, found by their scopes.
//!
//! A policy applies only if its scope matches the request. On each axis a scope names nothing, a type, or one entity; it
//! matches a request entity only if it names nothing, that entity's type, or that entity or one above it. So whoever looks
//! up all of these finds every policy that can apply, among some that cannot, and evaluating those alone gives what
//! evaluating all gives: the same decision, for the same reasons, with the same errors. Cedar's developers proved this in
//! Lean (`Cedar.Thm.Slicing`); here it is tested against Cedar's own evaluation of everything.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint};
use moka::sync::Cache;

/// Up to so many policies are evaluated whole: finding fewer of them would take longer than evaluating them.
const WHOLE: usize = 16;
/// How many sets of policies that were found together are kept, so that they need not be put together again.
const KEPT: u64 = 4_096;

/// What a scope asks of one axis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// Nothing.
    Any,
    /// A type.
    Type(EntityTypeName),
    /// An entity, or what is below it.
    Entity(EntityUid),
}

/// The policies about one action, by what their scopes ask of principal and resource.
#[derive(Debug)]
pub(crate) struct Index(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Arc<PolicySet>),
    Sliced {
        policies: Arc<[Policy]>,
        /// Places in `policies`, by principal, then by resource.
        places: HashMap<Key, HashMap<Key, Vec<u32>>>,
        ready: Cache<Vec<u32>, Arc<PolicySet>>,
    },
}

impl Index {
    /// Indexes those of `policies` that stand at `places`: all whose scope can match the action.
    ///
    /// # Errors
    /// What Cedar says of a set that holds a policy twice.
    pub(crate) fn new(policies: &Arc<[Policy]>, wanted: Vec<u32>) -> Result<Self, String> {
        if wanted.len() <= WHOLE {
            return together(policies, &wanted).map(|set| Self(Kind::Whole(Arc::new(set))));
        }
        together(policies, &wanted)?;
        Ok(Self::sliced(policies, wanted))
    }

    fn sliced(policies: &Arc<[Policy]>, wanted: Vec<u32>) -> Self {
        let mut places: HashMap<Key, HashMap<Key, Vec<u32>>> = HashMap::new();
        for place in wanted {
            let Some(policy) = at(policies, place) else { continue };
            let by_resource = places.entry(of_principal(&policy.principal_constraint())).or_default();
            by_resource.entry(of_resource(&policy.resource_constraint())).or_default().push(place);
        }
        Self(Kind::Sliced { policies: Arc::clone(policies), places, ready: Cache::new(KEPT) })
    }

    /// All policies whose scope can match the action.
    pub(crate) fn whole(&self) -> Arc<PolicySet> {
        match &self.0 {
            Kind::Whole(set) => Arc::clone(set),
            Kind::Sliced { policies, places, .. } => {
                let mut all: Vec<u32> = places.values().flat_map(HashMap::values).flatten().copied().collect();
                all.sort_unstable();
                Arc::new(together(policies, &all).unwrap_or_default())
            }
        }
    }

    /// The policies that can apply to a request. `above` names every entity that the given one is below.
    pub(crate) fn candidates<'e>(
        &self,
        principal: &EntityUid,
        resource: &EntityUid,
        above: impl Fn(&EntityUid) -> Vec<&'e EntityUid>,
    ) -> Arc<PolicySet> {
        let (policies, places, ready) = match &self.0 {
            Kind::Whole(set) => return Arc::clone(set),
            Kind::Sliced { policies, places, ready } => (policies, places, ready),
        };
        let resource = keys(resource, above(resource));
        let mut found = Vec::new();
        for by_resource in keys(principal, above(principal)).iter().filter_map(|key| places.get(key)) {
            for here in resource.iter().filter_map(|key| by_resource.get(key)) {
                found.extend_from_slice(here);
            }
        }
        // One set, however it was found.
        found.sort_unstable();
        if let Some(set) = ready.get(&found) {
            return set;
        }
        // All of them were put into one set when the index was made, so some of them can be. Were it not so: nothing allows.
        let set = Arc::new(together(policies, &found).unwrap_or_default());
        ready.insert(found, Arc::clone(&set));
        set
    }
}

fn at(policies: &[Policy], place: u32) -> Option<&Policy> {
    policies.get(usize::try_from(place).ok()?)
}

fn together(policies: &[Policy], places: &[u32]) -> Result<PolicySet, String> {
    let mut set = PolicySet::new();
    for policy in places.iter().filter_map(|place| at(policies, *place)) {
        set.add(policy.clone()).map_err(|error| error.to_string())?;
    }
    Ok(set)
}

fn keys(entity: &EntityUid, above: Vec<&EntityUid>) -> Vec<Key> {
    let own = [Key::Any, Key::Type(entity.type_name().clone()), Key::Entity(entity.clone())];
    own.into_iter().chain(above.into_iter().cloned().map(Key::Entity)).collect()
}

fn of_principal(constraint: &PrincipalConstraint) -> Key {
    match constraint {
        PrincipalConstraint::Any => Key::Any,
        PrincipalConstraint::Is(kind) => Key::Type(kind.clone()),
        PrincipalConstraint::Eq(entity) | PrincipalConstraint::In(entity) | PrincipalConstraint::IsIn(_, entity) => {
            Key::Entity(entity.clone())
        }
    }
}

fn of_resource(constraint: &ResourceConstraint) -> Key {
    match constraint {
        ResourceConstraint::Any => Key::Any,
        ResourceConstraint::Is(kind) => Key::Type(kind.clone()),
        ResourceConstraint::Eq(entity) | ResourceConstraint::In(entity) | ResourceConstraint::IsIn(_, entity) => {
            Key::Entity(entity.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};

    use cedar_policy::{Authorizer, Context, Decision, Entities, Entity, PolicyId, Request};
    use proptest::prelude::*;

    use super::*;

    const TYPES: [&str; 4] = ["Agent", "Dataset", "Group", "Team"];
    const IDS: usize = 3;

    fn uid((kind, id): (usize, usize)) -> EntityUid {
        format!("{}::\"{id}\"", TYPES[kind]).parse().unwrap()
    }

    fn any_uid() -> impl Strategy<Value = (usize, usize)> {
        (0..TYPES.len(), 0..IDS)
    }

    /// One axis of a scope.
    fn axis(name: &'static str) -> impl Strategy<Value = String> {
        let entity = || any_uid().prop_map(|(kind, id)| format!("{}::\"{id}\"", TYPES[kind]));
        prop_oneof![
            Just(name.to_owned()),
            entity().prop_map(move |entity| format!("{name} == {entity}")),
            entity().prop_map(move |entity| format!("{name} in {entity}")),
            (0..TYPES.len()).prop_map(move |kind| format!("{name} is {}", TYPES[kind])),
            ((0..TYPES.len()), entity())
                .prop_map(move |(kind, entity)| format!("{name} is {} in {entity}", TYPES[kind])),
        ]
    }

    /// A policy that applies, or does not, or cannot be evaluated.
    fn policy() -> impl Strategy<Value = String> {
        let condition = prop_oneof![
            3 => Just(String::new()),
            2 => Just("when { context.n == 1 }".to_owned()),
            1 => Just("when { principal.missing }".to_owned()),
            1 => Just("when { resource in principal }".to_owned()),
            1 => Just("unless { principal has flag && principal.flag }".to_owned()),
        ];
        (any::<bool>(), axis("principal"), axis("resource"), condition).prop_map(
            |(permit, principal, resource, condition)| {
                let effect = if permit { "permit" } else { "forbid" };
                format!("{effect} ({principal}, action, {resource}) {condition};")
            },
        )
    }

    /// Each entity below some that come after it, so that there are no circles, and some that are only named.
    fn entities() -> impl Strategy<Value = Entities> {
        let all = TYPES.len() * IDS;
        let parents = prop::collection::vec((prop::collection::vec(0..all, 0..3), any::<bool>()), all);
        (parents, prop::collection::hash_set(0..all, 0..4)).prop_map(move |(parents, absent)| {
            let uid = |place: usize| uid((place % TYPES.len(), place / TYPES.len()));
            let entities = parents.into_iter().enumerate().filter(|(place, _)| !absent.contains(place));
            let entities = entities.map(|(place, (parents, flag))| {
                let parents: HashSet<EntityUid> = parents.into_iter().filter(|p| *p > place).map(uid).collect();
                let attrs = [("flag".to_owned(), cedar_policy::RestrictedExpression::new_bool(flag))];
                Entity::new(uid(place), attrs.into(), parents).unwrap()
            });
            Entities::from_entities(entities, None).unwrap()
        })
    }

    type Found = (Decision, BTreeSet<PolicyId>, BTreeMap<PolicyId, String>);

    fn evaluate(request: &Request, policies: &PolicySet, entities: &Entities) -> Found {
        let response = Authorizer::new().is_authorized(request, policies, entities);
        let errors = response.diagnostics().errors().map(|error| {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            (error.policy_id().clone(), error.inner().to_string())
        });
        (response.decision(), response.diagnostics().reason().cloned().collect(), errors.collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_found_by_scope_decides_as_everything_does(
            texts in prop::collection::vec(policy(), 0..12),
            entities in entities(),
            requests in prop::collection::vec((any_uid(), any_uid(), 0..2_i64), 1..4),
        ) {
            let policies: Arc<[Policy]> = texts
                .iter()
                .enumerate()
                .map(|(number, text)| Policy::parse(Some(PolicyId::new(format!("p{number}"))), text).unwrap())
                .collect();
            let places: Vec<u32> = (0..u32::try_from(policies.len()).unwrap()).collect();
            let everything = together(&policies, &places).unwrap();
            let index = Index::sliced(&policies, places);
            for (principal, resource, n) in requests {
                let (principal, resource) = (uid(principal), uid(resource));
                let context = Context::from_pairs([("n".to_owned(), cedar_policy::RestrictedExpression::new_long(n))]);
                let action = "Action::\"act\"".parse().unwrap();
                let request = Request::new(principal.clone(), action, resource.clone(), context.unwrap(), None).unwrap();
                let above = |entity: &EntityUid| entities.ancestors(entity).into_iter().flatten().collect();
                // The second time from what is kept.
                for _ in 0..2 {
                    let found = index.candidates(&principal, &resource, above);
                    prop_assert!(found.num_of_policies() <= everything.num_of_policies());
                    prop_assert_eq!(
                        evaluate(&request, &found, &entities),
                        evaluate(&request, &everything, &entities)
                    );
                }
            }
        }
    }
}
