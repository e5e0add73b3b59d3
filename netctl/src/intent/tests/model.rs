//! A model of netmaster: carries out a command on an intent, or names the missing object.

use std::collections::BTreeMap;

use bus_schema::command::{
    GroupCreate, GroupRemove, GroupUpdate, NetworkCreate, NetworkRemove, PolicyRemove, RuleAdd,
    RuleRemove,
};
use bus_schema::policy::Peer;
use bus_schema::{Command, PolicyName};

use crate::intent::{Group, Intent, Network, Tenant};

type Outcome = Result<(), String>;

pub(super) fn carry_out(intent: &mut Intent, command: &Command) -> Outcome {
    let name = command.tenant().ok_or("a command without a tenant")?;
    if let Command::TenantCreate(it) = command {
        let tenant = intent.tenants.entry(name.clone()).or_default();
        tenant.max_connections = it.max_connections;
        tenant.egress = it.egress;
        return Ok(());
    }
    let tenant = intent.tenants.get_mut(name);
    let tenant = tenant.ok_or_else(|| format!("no tenant for {command:?}"))?;
    let done = match command.clone() {
        Command::TenantRemove(_) => {
            let outcome = require(tenant.networks.is_empty(), "an empty tenant");
            intent.tenants.remove(name);
            outcome
        }
        Command::TenantUpdate(it) => {
            tenant.max_connections = it.max_connections.or(tenant.max_connections);
            tenant.egress = it.egress.or(tenant.egress);
            Ok(())
        }
        Command::NetworkCreate(it) => tenant.create_network(it),
        Command::NetworkUpdate(it) => {
            let network = tenant.networks.get_mut(&it.network).ok_or("the network");
            network
                .map(|network| {
                    network.max_connections = it.max_connections.or(network.max_connections);
                    network.egress = it.egress.or(network.egress);
                    network.allow_metadata = it.allow_metadata.or(network.allow_metadata);
                })
                .map_err(str::to_owned)
        }
        Command::NetworkRemove(it) => tenant.remove_network(&it),
        Command::PolicyCreate(it) => {
            tenant.policies.insert(it.policy, BTreeMap::new());
            Ok(())
        }
        Command::PolicyRemove(it) => tenant.remove_policy(&it),
        Command::RuleAdd(it) => tenant.add_rule(it),
        Command::RuleRemove(it) => tenant.remove_rule(&it),
        Command::GroupCreate(it) => tenant.create_group(it),
        Command::GroupUpdate(it) => tenant.update_group(it),
        Command::GroupRemove(it) => tenant.remove_group(it),
        _ => Err("a command that plans don't contain".to_owned()),
    };
    done.map_err(|missing| format!("{command:?} lacks {missing}"))
}

fn require(holds: bool, what: &str) -> Outcome {
    match holds {
        true => Ok(()),
        false => Err(what.to_owned()),
    }
}

impl Tenant {
    fn has_policies(&self, names: &[PolicyName]) -> bool {
        names.iter().all(|it| self.policies.contains_key(it))
    }

    fn create_network(&mut self, create: NetworkCreate) -> Outcome {
        let network = Network {
            subnet: create.subnet,
            range: create.range,
            gateway: create.gateway,
            subnet6: create.subnet6,
            gateway6: create.gateway6,
            vni: create.vni,
            docker_name: create.docker_name,
            max_connections: create.max_connections,
            egress: create.egress,
            allow_metadata: create.allow_metadata,
        };
        self.networks.insert(create.network, network);
        Ok(())
    }

    fn remove_network(&mut self, remove: &NetworkRemove) -> Outcome {
        let mut groups = self.groups.values();
        let is_used = groups.any(|it| it.network == remove.network);
        self.networks.remove(&remove.network);
        require(!is_used, "an unused network")
    }

    fn remove_policy(&mut self, remove: &PolicyRemove) -> Outcome {
        let mut groups = self.groups.values();
        let is_used = groups.any(|it| it.policies.contains(&remove.policy));
        self.policies.remove(&remove.policy);
        require(!is_used, "an unused policy")
    }

    fn add_rule(&mut self, add: RuleAdd) -> Outcome {
        if let Some(Peer::Group { group }) = &add.spec.peer {
            require(self.groups.contains_key(group), "the rule's group")?;
        }
        let rules = self.policies.get_mut(&add.policy).ok_or("the policy")?;
        require(rules.insert(add.rule, add.spec).is_none(), "a free id")
    }

    fn remove_rule(&mut self, remove: &RuleRemove) -> Outcome {
        let rules = self.policies.get_mut(&remove.policy).ok_or("the policy")?;
        require(rules.remove(&remove.rule).is_some(), "the rule")
    }

    fn create_group(&mut self, create: GroupCreate) -> Outcome {
        require(self.networks.contains_key(&create.network), "the network")?;
        require(self.has_policies(&create.policies), "the policies")?;
        let group = Group {
            network: create.network,
            policies: create.policies,
            pool: create.ip_pool,
            docker_name: create.docker_name,
        };
        self.groups.insert(create.group, group);
        Ok(())
    }

    fn update_group(&mut self, update: GroupUpdate) -> Outcome {
        require(self.has_policies(&update.policies), "the policies")?;
        let group = self.groups.get_mut(&update.group).ok_or("the group")?;
        group.policies = update.policies;
        Ok(())
    }

    fn remove_group(&mut self, remove: GroupRemove) -> Outcome {
        self.groups.remove(&remove.group);
        let group = remove.group;
        let peer = Some(Peer::Group { group });
        let mut rules = self.policies.values().flat_map(BTreeMap::values);
        require(rules.all(|spec| spec.peer != peer), "an unused group")
    }
}
