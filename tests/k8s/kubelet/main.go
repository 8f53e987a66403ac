// SPDX-License-Identifier: Apache-2.0

// Command kubelet-devices is kubelet's own device manager and pod-resources server, without the rest of kubelet.
// It does what lines of JSON on its standard input ask and answers each with a line; its log goes to standard error.
// It uses kubelet's own paths below /var/lib/kubelet, so run it where that is a folder of yours (a mount namespace).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"

	cadvisor "github.com/google/cadvisor/info/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/config"
)

// pod is what a request says of one; its UID is its name.
type pod struct {
	Name       string      `json:"name"`
	Namespace  string      `json:"namespace"`
	Init       []container `json:"init"`
	Containers []container `json:"containers"`
}

type container struct {
	Name   string           `json:"name"`
	Limits map[string]int64 `json:"limits"`
}

type request struct {
	Do        string `json:"do"`
	Running   []pod  `json:"running"`   // begin: pods whose containers run already: kubelet was restarted
	Pod       pod    `json:"pod"`       // admit
	Name      string `json:"name"`      // run, remove, status: the pod's name
	Container string `json:"container"` // run
}

// kubelet is the part of it that hands out devices, and the pods that it has admitted.
type kubelet struct {
	manager *devicemanager.ManagerImpl
	guard   sync.Mutex
	pods    map[string]*v1.Pod
	ready   bool // whether all sources of pods were read, which is false just after a restart
}

func main() {
	klog.InitFlags(nil)
	flag.Parse()
	here := &kubelet{pods: map[string]*v1.Pod{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked request
		answer, err := map[string]any{}, json.Unmarshal(lines.Bytes(), &asked)
		if err == nil {
			answer, err = here.do(asked)
		}
		if err != nil {
			answer = map[string]any{"error": err.Error()}
		}
		if err := answers.Encode(answer); err != nil {
			klog.Fatal(err)
		}
	}
}

func (k *kubelet) do(asked request) (map[string]any, error) {
	switch asked.Do {
	case "begin":
		return done(k.begin(asked.Running))
	case "capacity":
		capacity, allocatable, deleted := k.manager.GetCapacity()
		return map[string]any{"capacity": numbers(capacity), "allocatable": numbers(allocatable), "deleted": deleted}, nil
	case "admit":
		return done(k.admit(made(asked.Pod)))
	case "run":
		return k.run(asked.Name, asked.Container)
	case "remove":
		k.remove(asked.Name)
		return done(nil)
	case "status":
		return k.status(asked.Name)
	}
	return nil, fmt.Errorf("nothing is called %q", asked.Do)
}

func done(err error) (map[string]any, error) { return map[string]any{"done": true}, err }

// begin starts the manager as kubelet does, with what the container runtime says is running.
func (k *kubelet) begin(running []pod) error {
	numa := []cadvisor.Node{{Id: 0}, {Id: 1}}
	manager, err := devicemanager.NewManagerImpl(numa, topologymanager.NewFakeManager())
	if err != nil {
		return err
	}
	k.manager = manager
	known, alive := containermap.NewContainerMap(), sets.New[string]()
	for _, one := range running {
		for _, inside := range one.Containers {
			id := one.Name + "/" + inside.Name
			known.Add(one.Name, inside.Name, id)
			alive.Insert(id)
		}
	}
	sources := config.NewSourcesReady(func(sets.Set[string]) bool { return k.ready })
	if err := manager.Start(k.GetActivePods, sources, known, alive); err != nil {
		return err
	}
	for _, one := range running {
		if err := k.admit(made(one)); err != nil {
			return err
		}
	}
	k.ready = true
	return k.servePodResources(context.Background())
}

// admit gives a pod its devices, or refuses it for good (UnexpectedAdmissionError).
func (k *kubelet) admit(one *v1.Pod) error {
	k.guard.Lock()
	k.pods[one.Name] = one // before, as kubelet's pod manager knows it: what an unknown pod got is taken back
	k.guard.Unlock()
	for _, list := range [][]v1.Container{one.Spec.InitContainers, one.Spec.Containers} {
		for i := range list {
			if err := k.manager.Allocate(one, &list[i]); err != nil {
				k.remove(one.Name)
				return err
			}
		}
	}
	return nil
}

func (k *kubelet) remove(name string) {
	k.guard.Lock()
	delete(k.pods, name)
	k.guard.Unlock()
	k.manager.UpdateAllocatedDevices()
}

// run does what precedes each start of a container, also a restart: PreStartContainer, then what the runtime gets.
func (k *kubelet) run(name, inside string) (map[string]any, error) {
	one, ok := k.GetPodByName("", name)
	if !ok {
		return nil, fmt.Errorf("there is no pod %s", name)
	}
	for _, list := range [][]v1.Container{one.Spec.InitContainers, one.Spec.Containers} {
		for i := range list {
			if list[i].Name != inside {
				continue
			}
			options, err := k.manager.GetDeviceRunContainerOptions(one, &list[i])
			if err != nil || options == nil {
				return map[string]any{}, err
			}
			ids := map[string][]string{}
			for resourceName, devices := range k.manager.GetDevices(name, inside) {
				ids[resourceName] = sets.List(sets.KeySet(devices))
			}
			envs, annotations := map[string]string{}, map[string]string{}
			for _, env := range options.Envs {
				envs[env.Name] = env.Value
			}
			for _, annotation := range options.Annotations {
				annotations[annotation.Name] = annotation.Value
			}
			cdi := []string{}
			for _, device := range options.CDIDevices {
				cdi = append(cdi, device.Name)
			}
			return map[string]any{
				"ids": ids, "envs": envs, "annotations": annotations, "cdi": cdi,
				"mounts": options.Mounts, "devices": options.Devices,
			}, nil
		}
	}
	return nil, fmt.Errorf("pod %s has no container %s", name, inside)
}

// status is allocatedResourcesStatus of a pod's containers: container -> device id -> health.
func (k *kubelet) status(name string) (map[string]any, error) {
	one, ok := k.GetPodByName("", name)
	if !ok {
		return nil, fmt.Errorf("there is no pod %s", name)
	}
	status := v1.PodStatus{}
	for _, inside := range one.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, v1.ContainerStatus{Name: inside.Name})
	}
	k.manager.UpdateAllocatedResourcesStatus(one, &status)
	found := map[string]any{}
	for _, inside := range status.ContainerStatuses {
		health := map[string]string{}
		for _, resources := range inside.AllocatedResourcesStatus {
			for _, device := range resources.Resources {
				health[string(device.ResourceID)] = string(device.Health)
			}
		}
		found[inside.Name] = health
	}
	return found, nil
}

func made(asked pod) *v1.Pod {
	containers := func(asked []container) (list []v1.Container) {
		for _, inside := range asked {
			limits := v1.ResourceList{}
			for name, count := range inside.Limits {
				limits[v1.ResourceName(name)] = *resource.NewQuantity(count, resource.DecimalSI)
			}
			needs := v1.ResourceRequirements{Limits: limits, Requests: limits}
			list = append(list, v1.Container{Name: inside.Name, Resources: needs})
		}
		return list
	}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: asked.Name, Namespace: asked.Namespace, UID: types.UID(asked.Name)},
		Spec:       v1.PodSpec{InitContainers: containers(asked.Init), Containers: containers(asked.Containers)},
	}
}

func numbers(list v1.ResourceList) map[string]int64 {
	found := map[string]int64{}
	for name, quantity := range list {
		found[string(name)] = quantity.Value()
	}
	return found
}
