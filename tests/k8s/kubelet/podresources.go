// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
)

const podResourcesSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"

// servePodResources is kubelet's own server over this device manager; processors and memory are not handed out here.
func (k *kubelet) servePodResources(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(podResourcesSocket), 0o750); err != nil {
		return err
	}
	if err := os.RemoveAll(podResourcesSocket); err != nil {
		return err
	}
	listener, err := net.Listen("unix", podResourcesSocket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(ctx,
		podresources.PodResourcesProviders{Pods: k, Devices: k, Cpus: k, Memory: k, DynamicResources: k}))
	go func() { klog.Fatal(server.Serve(listener)) }()
	return nil
}

func (k *kubelet) GetActivePods() []*v1.Pod {
	k.guard.Lock()
	defer k.guard.Unlock()
	found := []*v1.Pod{}
	for _, one := range k.pods {
		found = append(found, one)
	}
	return found
}

func (k *kubelet) GetPods() []*v1.Pod { return k.GetActivePods() }

func (k *kubelet) GetPodByName(_, name string) (*v1.Pod, bool) {
	k.guard.Lock()
	defer k.guard.Unlock()
	one, ok := k.pods[name]
	return one, ok
}

func (k *kubelet) UpdateAllocatedDevices() { k.manager.UpdateAllocatedDevices() }

func (k *kubelet) GetDevices(podUID, container string) []*podresourcesapi.ContainerDevices {
	return listed(k.manager.GetDevices(podUID, container))
}

func (k *kubelet) GetAllocatableDevices() []*podresourcesapi.ContainerDevices {
	return listed(k.manager.GetAllocatableDevices())
}

// listed has one entry for each device and NUMA node, as kubelet's container manager makes them.
func listed(all devicemanager.ResourceDeviceInstances) []*podresourcesapi.ContainerDevices {
	found := []*podresourcesapi.ContainerDevices{}
	for name, devices := range all {
		for id, device := range devices {
			entry := func(topology *podresourcesapi.TopologyInfo) {
				one := &podresourcesapi.ContainerDevices{ResourceName: name, DeviceIds: []string{id}, Topology: topology}
				found = append(found, one)
			}
			if device.GetTopology() == nil {
				entry(nil)
				continue
			}
			for _, node := range device.GetTopology().GetNodes() {
				entry(&podresourcesapi.TopologyInfo{Nodes: []*podresourcesapi.NUMANode{{ID: node.GetID()}}})
			}
		}
	}
	return found
}

func (k *kubelet) GetCPUs(_, _ string) []int64                              { return nil }
func (k *kubelet) GetAllocatableCPUs() []int64                              { return nil }
func (k *kubelet) GetMemory(_, _ string) []*podresourcesapi.ContainerMemory { return nil }
func (k *kubelet) GetAllocatableMemory() []*podresourcesapi.ContainerMemory { return nil }
func (k *kubelet) GetDynamicResources(*v1.Pod, *v1.Container) []*podresourcesapi.DynamicResource {
	return nil
}
