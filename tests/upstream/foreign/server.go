// An upstream on grpc-go. Prints its port; leaves when its standard input ends.
//
//	server [-unary] [-age MS] [-streams N]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The messages of protos/upstream.proto, as far as this server needs them.

type request struct {
	Action      string `protobuf:"bytes,3,opt,name=action,proto3"`
	Data        []byte `protobuf:"bytes,5,opt,name=data,proto3"`
	ClientSeqId uint64 `protobuf:"varint,7,opt,name=client_seq_id,proto3"`
	RequestId   uint64 `protobuf:"varint,10,opt,name=request_id,proto3"`
}

type response struct {
	Code        int32  `protobuf:"varint,1,opt,name=code,proto3"`
	Message     string `protobuf:"bytes,2,opt,name=message,proto3"`
	Data        []byte `protobuf:"bytes,3,opt,name=data,proto3"`
	ClientSeqId uint64 `protobuf:"varint,5,opt,name=client_seq_id,proto3"`
	RequestId   uint64 `protobuf:"varint,10,opt,name=request_id,proto3"`
}

type requests struct {
	Requests []*request `protobuf:"bytes,1,rep,name=requests,proto3"`
}

type responses struct {
	Responses []*response `protobuf:"bytes,1,rep,name=responses,proto3"`
}

func (m *request) Reset()          { *m = request{} }
func (m *request) String() string  { return m.Action }
func (*request) ProtoMessage()     {}
func (m *response) Reset()         { *m = response{} }
func (m *response) String() string { return m.Message }
func (*response) ProtoMessage()    {}

func (m *requests) Reset()          { *m = requests{} }
func (m *requests) String() string  { return fmt.Sprint(len(m.Requests)) }
func (*requests) ProtoMessage()     {}
func (m *responses) Reset()         { *m = responses{} }
func (m *responses) String() string { return fmt.Sprint(len(m.Responses)) }
func (*responses) ProtoMessage()    {}

var reports = health.NewServer()

// Actions: echo, or "wait MS", "fail STATUS TEXT", "large BYTES", "health STATUS".
func answer(asked *request) (*response, error) {
	words := strings.SplitN(asked.Action, " ", 3)
	data := asked.Data
	number := 0
	if len(words) > 1 {
		number, _ = strconv.Atoi(words[1])
	}
	switch words[0] {
	case "wait":
		time.Sleep(time.Duration(number) * time.Millisecond)
	case "fail":
		return nil, status.Error(codes.Code(number), words[2])
	case "large":
		data = make([]byte, number)
	case "health":
		value := healthpb.HealthCheckResponse_ServingStatus_value[words[1]]
		reports.SetServingStatus("", healthpb.HealthCheckResponse_ServingStatus(value))
	}
	return &response{
		Code: 200, Message: "go", Data: data,
		ClientSeqId: asked.ClientSeqId, RequestId: asked.RequestId,
	}, nil
}

func processRequest(
	_ interface{}, _ context.Context, decode func(interface{}) error, _ grpc.UnaryServerInterceptor,
) (interface{}, error) {
	asked := new(request)
	if err := decode(asked); err != nil {
		return nil, err
	}
	return answer(asked)
}

func processStream(_ interface{}, stream grpc.ServerStream) error {
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	answers := make(chan *response)
	written := make(chan error, 1)
	go func() {
		for one := range answers {
			if err := stream.SendMsg(&responses{Responses: []*response{one}}); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	open := make(chan struct{}, 1<<16)
	for {
		batch := new(requests)
		err := stream.RecvMsg(batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for _, asked := range batch.Requests {
			open <- struct{}{}
			go func(asked *request) {
				defer func() { <-open }()
				one, err := answer(asked)
				if err != nil {
					one = &response{Code: 500, Message: err.Error(), RequestId: asked.RequestId}
				}
				select {
				case answers <- one:
				case <-stream.Context().Done():
				}
			}(asked)
		}
	}
	for len(open) > 0 {
		time.Sleep(time.Millisecond)
	}
	close(answers)
	return <-written
}

func main() {
	unary := flag.Bool("unary", false, "without ProcessStream")
	age := flag.Int("age", 0, "longest life of a connection, ms")
	streams := flag.Uint("streams", math.MaxUint32, "streams at a time on a connection")
	flag.Parse()

	service := grpc.ServiceDesc{
		ServiceName: "gatesvr.proto.UpstreamService",
		Methods:     []grpc.MethodDesc{{MethodName: "ProcessRequest", Handler: processRequest}},
	}
	if !*unary {
		service.Streams = []grpc.StreamDesc{{
			StreamName: "ProcessStream", Handler: processStream,
			ServerStreams: true, ClientStreams: true,
		}}
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(16 << 20),
		grpc.MaxConcurrentStreams(uint32(*streams)),
	}
	if *age > 0 {
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: time.Duration(*age) * time.Millisecond,
		}))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&service, nil)
	healthpb.RegisterHealthServer(server, reports)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if err := server.Serve(listener); err != nil {
		panic(err)
	}
}
