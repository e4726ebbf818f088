def test_ports(free_port, free_port_factory, free_socket):
    first, second = free_port_factory(2)
    assert len({free_port, first, second}) == 3
    host, port = free_socket.getsockname()
    assert host == "127.0.0.1"
    assert port not in (free_port, first, second)
